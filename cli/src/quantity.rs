//! Amounts as people write them: `1.5` CPUs, `512m` of memory, `10m` of time, `key=value`.
//!
//! Pure. A text that could mean two things is refused with an example of what is expected; nothing is rounded down to
//! nothing.

use std::time::Duration;

use common::job::Resources;
pub use common::words::{show_bytes, show_duration};

/// Longest duration that is understood; what the server accepts is its own decision.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);

const MIB: f64 = 1_024.0 * 1_024.0;

/// Thousandths of a CPU from `2`, `1.5` or `250m`.
///
/// # Errors
/// A sentence with what is expected.
pub fn cpu_millis(text: &str) -> Result<u32, String> {
    let expected = || {
        format!("`{text}` is no number of CPUs; expected something like `2`, `1.5` or `250m` (thousandths)")
    };
    let (number, factor) = text
        .strip_suffix('m')
        .map_or((text, 1_000.0), |thousandths| (thousandths, 1.0));
    let value = plain_number(number).ok_or_else(expected)? * factor;
    whole(value.round())
        .filter(|millis| *millis > 0)
        .ok_or_else(expected)
}

/// MiB from `512m`, `1.5g`, `2gib` or `300000k`, rounded up. A bare number is refused: it could mean bytes or MiB.
///
/// # Errors
/// A sentence with what is expected.
pub fn size_mib(text: &str) -> Result<u32, String> {
    let expected =
        || format!("`{text}` is no size; expected a number and a unit, such as `512m`, `1.5g` or `2gib`");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let bytes = match unit {
        "b" => 1.0,
        "k" | "kb" | "kib" => 1_024.0,
        "m" | "mb" | "mib" => MIB,
        "g" | "gb" | "gib" => 1_024.0 * MIB,
        "t" | "tb" | "tib" => 1_024.0 * 1_024.0 * MIB,
        _ => return Err(expected()),
    };
    let mib = (plain_number(number).ok_or_else(expected)? * bytes / MIB).ceil();
    whole(mib).filter(|mib| *mib > 0).ok_or_else(expected)
}

/// A time from `90s`, `10m`, `1h30m`, `2d` or `500ms`. A bare number is refused: it could mean seconds or minutes.
///
/// # Errors
/// A sentence with what is expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || {
        format!(
            "`{text}` is no time; expected numbers with units, such as `90s`, `10m`, `1h30m`, `2d` or `500ms`"
        )
    };
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(expected());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(expected)?;
        let number = plain_number(&rest[..digits]).ok_or_else(expected)?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        let seconds = match &rest[..letters] {
            "ms" => 0.001,
            "s" | "sec" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(expected()),
        };
        rest = &rest[letters..];
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| expected())?;
        total = total
            .checked_add(part)
            .filter(|sum| *sum <= DURATION_MAX)
            .ok_or_else(|| format!("`{text}` is too long; the longest that is understood is 366d"))?;
    }
    Ok(total)
}

/// The size of a worker from `64,256g,1t`: CPUs, memory, disk.
///
/// # Errors
/// A sentence with what is expected.
pub fn worker_size(text: &str) -> Result<Resources, String> {
    let parts: Vec<&str> = text.split(',').collect();
    let [cpus, memory, disk] = parts[..] else {
        return Err(format!(
            "`{text}` is no size of a worker; expected CPUs, memory and disk, such as `64,256g,1t`"
        ));
    };
    Ok(Resources {
        cpu_millis: cpu_millis(cpus)?,
        memory_mib: size_mib(memory)?,
        disk_mib: size_mib(disk)?,
    })
}

/// Splits `KEY=VALUE` at the first `=`.
///
/// # Errors
/// A sentence with what is expected.
pub fn pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("`{text}` has no name and value; expected `KEY=VALUE`"))
}

/// Digits with at most one point: no sign, no exponent, no `inf`.
fn plain_number(text: &str) -> Option<f64> {
    let plain = !text.is_empty()
        && text.len() <= 18
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if plain { text.parse().ok() } else { None }
}

fn whole(value: f64) -> Option<u32> {
    (value.is_finite() && (0.0..=f64::from(u32::MAX)).contains(&value)).then_some(value as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_mean_what_people_expect() {
        for (text, millis) in [
            ("1", 1_000),
            ("1.5", 1_500),
            ("0.25", 250),
            ("250m", 250),
            ("64", 64_000),
        ] {
            assert_eq!(cpu_millis(text), Ok(millis), "{text}");
        }
        for (text, mib) in [
            ("512m", 512),
            ("512M", 512),
            ("1g", 1_024),
            ("1.5GiB", 1_536),
            ("1b", 1),
            ("1025k", 2),
            ("1t", 1_048_576),
        ] {
            assert_eq!(size_mib(text), Ok(mib), "{text}");
        }
        for (text, millis) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("0s", 0),
            ("1.5h", 5_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused_with_an_example() {
        for text in ["", "x", "-1", "1e3", "inf", "NaN", ".5", "0", "1..2"] {
            assert!(cpu_millis(text).is_err(), "{text}");
        }
        for text in ["", "512", "m", "-1m", "1x", "0m", "99999999999t", "1 m m"] {
            assert!(size_mib(text).is_err(), "{text}");
        }
        for text in ["", "10", "m", "-1s", "1y", "10m5", "9999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(size_mib("512").unwrap_err().contains("512m"));
        assert!(pair("=x").is_err() && pair("x").is_err());
        for text in ["", "64", "64,256g", "64,256,1t", "64,256g,1t,2", ",,"] {
            assert!(worker_size(text).is_err(), "{text}");
        }
        let large = worker_size("64,256g,1t").unwrap();
        assert_eq!(
            (large.cpu_millis, large.memory_mib, large.disk_mib),
            (64_000, 262_144, 1_048_576)
        );
        assert_eq!(pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(pair("a="), Ok(("a".into(), String::new())));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            let _ = (cpu_millis(&text), size_mib(&text), duration(&text), pair(&text));
        }

        #[test]
        fn whole_units_are_exact(mib in 1u32..10_000_000, seconds in 1u64..1_000_000) {
            prop_assert_eq!(size_mib(&format!("{mib}m")), Ok(mib));
            prop_assert_eq!(duration(&format!("{seconds}s")), Ok(Duration::from_secs(seconds)));
        }
    }
}
