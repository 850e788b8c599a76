//! A sorted set that knows the place of each member: blocks in order, each sorted.
//!
//! With a million members: some thousand blocks, so inserting moves a few kilobytes, and counting what stands before
//! a member adds up the blocks before it. A tree of the standard library would count them one by one.

use common::ids::JobId;

/// Score, then job: ties go by time of submission.
pub type Member = (u64, JobId);

/// A full block is split in two.
const BLOCK_MAX: usize = 1_024;

#[derive(Debug, Default)]
pub struct Sorted {
    /// None is empty.
    blocks: Vec<Vec<Member>>,
    len: usize,
}

impl Sorted {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn insert(&mut self, member: Member) {
        if self.blocks.is_empty() {
            self.blocks.push(Vec::new());
        }
        let at = self.block_of(&member).min(self.blocks.len() - 1);
        let block = &mut self.blocks[at];
        let Err(place) = block.binary_search(&member) else {
            return;
        };
        block.insert(place, member);
        self.len += 1;
        if block.len() > BLOCK_MAX {
            let upper = block.split_off(BLOCK_MAX / 2);
            self.blocks.insert(at + 1, upper);
        }
    }

    pub fn remove(&mut self, member: Member) {
        let at = self.block_of(&member);
        let Some(block) = self.blocks.get_mut(at) else {
            return;
        };
        if let Ok(place) = block.binary_search(&member) {
            block.remove(place);
            self.len -= 1;
            if block.is_empty() {
                self.blocks.remove(at);
            }
        }
    }

    /// How many members stand before this one; none when it is not there.
    pub fn place(&self, member: Member) -> Option<usize> {
        let at = self.block_of(&member);
        let within = self.blocks.get(at)?.binary_search(&member).ok()?;
        Some(self.blocks[..at].iter().map(Vec::len).sum::<usize>() + within)
    }

    /// In order, the first `skip` left out.
    pub fn from(&self, mut skip: usize) -> impl Iterator<Item = Member> {
        let mut first = 0;
        while first < self.blocks.len() && skip >= self.blocks[first].len() {
            skip -= self.blocks[first].len();
            first += 1;
        }
        self.blocks[first..].iter().flatten().copied().skip(skip)
    }

    /// The first block that ends at or after `member`; one past the last if none does.
    fn block_of(&self, member: &Member) -> usize {
        self.blocks
            .partition_point(|block| block.last().is_some_and(|last| last < member))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_sorted_set_that_knows_places(
            steps in prop::collection::vec((any::<bool>(), 0u64..2_000), 0..4_000),
            skip in 0usize..3_000,
        ) {
            let (mut sorted, mut model) = (Sorted::default(), BTreeSet::new());
            for score in 0..3_000 {
                let member = (score * 7 % 3_000, JobId::from_u128(1));
                sorted.insert(member);
                model.insert(member);
            }
            for (add, score) in steps {
                let member = (score, JobId::from_u128(1));
                if add {
                    sorted.insert(member);
                    model.insert(member);
                } else {
                    sorted.remove(member);
                    model.remove(&member);
                }
            }
            prop_assert_eq!(sorted.len(), model.len());
            prop_assert!(sorted.from(skip).eq(model.iter().copied().skip(skip)));
            for score in (0..2_000).step_by(97) {
                let member = (score, JobId::from_u128(1));
                let place = model.contains(&member).then(|| model.range(..member).count());
                prop_assert_eq!(sorted.place(member), place);
            }
        }
    }
}
