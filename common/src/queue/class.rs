//! Placement classes: jobs that every worker would judge alike, capped in number.
//!
//! A class is pool, labels wanted, and size rounded up in steps of the square root of 2. A job that no worker fits so
//! never stands before one of another class that some worker does. An account has [`CLASSES_PER_ACCOUNT_MAX`] classes
//! at a time at the most; what comes past that waits in *mixed* classes, which are few by their making and whose
//! jobs are judged one by one. The cap is each account's own, so nobody can use up another's classes.
//!
//! Suspects ([`crate::job::Job::is_suspect`]) are in a class of their own: workers that have one already are no
//! workers for them, and they must hold up nobody else while they wait for another.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::PoolName;
use crate::job::{JobSpec, Resources};

/// Classes of one account beside the mixed ones. More kinds of work than people have at a time, and few enough that
/// the leader can look at all of them in every round.
pub const CLASSES_PER_ACCOUNT_MAX: usize = 128;

/// Steps that one mixed class holds: sizes of a factor of 16.
const STEPS_MIXED: u32 = 8;

/// Mixed classes that pools and labels are spread over. With at most 5, 6 and 6 sizes of CPU, memory and disk this
/// makes some 700 mixed classes of an account that sets out to have as many as it can.
const SPREAD_MIXED: u64 = 4;

/// Marks a mixed class; no pool's name can hold it.
const MIXED: char = '~';

/// Marks a class of suspects; no pool's name can hold it.
const SUSPECTS: char = '!';

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClassKey(Arc<str>);

impl ClassKey {
    pub fn of(spec: &JobSpec) -> Self {
        let size = spec.resources;
        let labels = if spec.worker_labels.is_empty() {
            String::new()
        } else {
            let text = serde_json::to_vec(&spec.worker_labels).expect("a map of strings is plain data");
            format!(
                "#{}",
                &data_encoding::HEXLOWER.encode(&Sha256::digest(text))[..16]
            )
        };
        let text = format!(
            "{}/c{}m{}d{}{labels}",
            spec.pool,
            size_step(size.cpu_millis),
            size_step(size.memory_mib),
            size_step(size.disk_mib),
        );
        Self(text.into())
    }

    /// The same for suspects.
    pub fn of_suspects(&self) -> Self {
        Self(format!("{SUSPECTS}{}", self.0).into())
    }

    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where jobs of this class wait whose account has as many classes as it may. A mixed class is its own.
    pub fn mixed(&self) -> Self {
        if self.is_mixed() {
            return self.clone();
        }
        let (steps, labels) = (self.steps().unwrap_or([0; 3]), self.labels_mark().unwrap_or(""));
        let spread = fnv(&[self.pool_text(), "#", labels]) % SPREAD_MIXED;
        let [cpu, memory, disk] =
            steps.map(|step| step.saturating_sub(1) / STEPS_MIXED * STEPS_MIXED + u32::from(step > 0));
        Self(format!("{MIXED}{spread}/c{cpu}m{memory}d{disk}").into())
    }

    /// Whether jobs of several pools, labels and sizes wait here, each to be judged alone.
    pub fn is_mixed(&self) -> bool {
        self.0.starts_with(MIXED)
    }

    /// Whether those that wait here are suspects. In a mixed class each job says it itself.
    pub fn is_suspects(&self) -> bool {
        self.0.starts_with(SUSPECTS)
    }

    /// The pool that all jobs of this class ask for; none for a mixed one.
    pub fn pool(&self) -> Option<PoolName> {
        PoolName::new(self.pool_text()).ok()
    }

    /// Whether jobs of this class ask for labels. Which ones only a job can tell.
    pub fn asks_labels(&self) -> bool {
        self.is_mixed() || self.labels_mark().is_some()
    }

    /// No job of this class is smaller than this, in any of the three.
    pub fn least(&self) -> Resources {
        let [cpu_millis, memory_mib, disk_mib] = self.steps().unwrap_or([0; 3]).map(least_of);
        Resources {
            cpu_millis,
            memory_mib,
            disk_mib,
        }
    }

    fn pool_text(&self) -> &str {
        let pool = self.0.split_once('/').map_or(&*self.0, |(pool, _)| pool);
        pool.strip_prefix(SUSPECTS).unwrap_or(pool)
    }

    fn labels_mark(&self) -> Option<&str> {
        self.0.split_once('#').map(|(_, mark)| mark)
    }

    fn steps(&self) -> Option<[u32; 3]> {
        let (_, size) = self.0.split_once('/')?;
        let size = size.split_once('#').map_or(size, |(size, _)| size);
        let (cpu, rest) = size.strip_prefix('c')?.split_once('m')?;
        let (memory, disk) = rest.split_once('d')?;
        let step = |text: &str| text.parse().ok().filter(|step| *step <= 64);
        Some([step(cpu)?, step(memory)?, step(disk)?])
    }
}

impl fmt::Display for ClassKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The smallest `n` with `2^(n/2) >= value`: 64 steps hold every size.
pub fn size_step(value: u32) -> u32 {
    // 128 bits: the next power of two after the square of the largest value is 2^64
    let squared = u128::from(value.max(1)).pow(2);
    squared.next_power_of_two().trailing_zeros()
}

/// The smallest size of a step.
fn least_of(step: u32) -> u32 {
    match step.checked_sub(1) {
        None => 0,
        Some(below) => u32::try_from((1u64 << below.min(63)).isqrt() + 1).unwrap_or(u32::MAX),
    }
}

/// Spreads texts over numbers, everywhere alike (FNV-1a): processes that share an index have to agree.
fn fnv(texts: &[&str]) -> u64 {
    texts
        .iter()
        .flat_map(|text| text.bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::lifecycle::testing::spec;

    fn sized(cpu_millis: u32, memory_mib: u32, disk_mib: u32) -> JobSpec {
        let mut spec = spec();
        spec.resources = Resources {
            cpu_millis,
            memory_mib,
            disk_mib,
        };
        spec
    }

    proptest! {
        #[test]
        fn a_step_holds_its_size_and_is_tight(value in 1u32..) {
            let step = size_step(value);
            let least = 2f64.powf(f64::from(step) / 2.0);
            prop_assert!(least * 1.000_001 >= f64::from(value));
            prop_assert!(step == 0 || 2f64.powf(f64::from(step - 1) / 2.0) < f64::from(value));
            prop_assert!(step <= 64);
        }

        #[test]
        fn no_job_is_smaller_than_the_least_of_its_class(cpu in 1u32.., memory in 1u32.., disk in 1u32..) {
            let spec = sized(cpu, memory, disk);
            for class in [ClassKey::of(&spec), ClassKey::of(&spec).mixed()] {
                let least = class.least();
                prop_assert!(least.cpu_millis <= cpu && least.memory_mib <= memory && least.disk_mib <= disk);
            }
            // and within the square root of 2 of it, up to rounding
            let least = ClassKey::of(&spec).least();
            prop_assert!(f64::from(cpu) <= f64::from(least.cpu_millis) * 1.5);
        }

        #[test]
        fn no_text_makes_a_class_panic(text in "\\PC*") {
            let class = ClassKey::from_text(&text);
            prop_assert!(class.mixed().is_mixed());
            let _ = (class.least(), class.pool(), class.asks_labels());
        }
    }

    #[test]
    fn other_labels_are_another_class() {
        let mut labelled = spec();
        labelled.worker_labels.insert("gpu".into(), "yes".into());
        let (plain, labelled) = (ClassKey::of(&spec()), ClassKey::of(&labelled));
        assert_ne!(plain, labelled);
        assert!(labelled.asks_labels() && !plain.asks_labels());
        assert_eq!(plain.pool(), Some(PoolName::default()));
    }

    #[test]
    fn suspects_wait_apart_and_ask_for_the_same() {
        let mut labelled = spec();
        labelled.worker_labels.insert("gpu".into(), "yes".into());
        for spec in [spec(), labelled] {
            let class = ClassKey::of(&spec);
            let suspects = class.of_suspects();
            assert!(suspects.is_suspects() && !class.is_suspects() && class != suspects);
            assert_eq!(
                (suspects.pool(), suspects.least(), suspects.asks_labels()),
                (class.pool(), class.least(), class.asks_labels())
            );
            assert_eq!(suspects.mixed(), class.mixed(), "mixed classes stay few");
        }
    }

    #[test]
    fn whatever_is_asked_there_are_few_mixed_classes() {
        let mut mixed = BTreeSet::new();
        for number in 0..20u32 {
            let sizes = (4..=40).step_by(3).map(|step| 1 << (step / 2));
            for (cpu, memory) in sizes
                .clone()
                .flat_map(|cpu| sizes.clone().map(move |memory| (cpu, memory)))
            {
                for disk in sizes.clone() {
                    let mut spec = sized(cpu, memory, disk);
                    spec.worker_labels.insert("n".into(), number.to_string());
                    mixed.insert(ClassKey::of(&spec).mixed());
                }
            }
        }
        assert!((100..=720).contains(&mixed.len()), "{}", mixed.len());
        assert!(mixed.iter().all(|class| class.mixed() == *class));
    }
}
