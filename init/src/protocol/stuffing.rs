//! Byte stuffing (consistent overhead, COBS): turns any bytes into bytes without a zero, at most one more for
//! each 254, so that a zero on the wire is always the mark of a frame.

/// The most that `len` bytes become.
pub(super) const fn stuffed_len_max(len: usize) -> usize {
    len + len / RUN_MAX + 2
}

/// The longest run without a zero that one code byte can announce.
const RUN_MAX: usize = 254;

/// Where the first zero stands. Eight bytes at a time, because all output passes through here.
pub(super) fn find_zero(bytes: &[u8]) -> Option<usize> {
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let (words, tail) = bytes.as_chunks::<8>();
    let with_zero = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        word.wrapping_sub(LOW) & !word & HIGH != 0
    };
    let clean = words.iter().position(with_zero).unwrap_or(words.len()) * 8;
    let near = if clean < words.len() * 8 {
        &bytes[clean..clean + 8]
    } else {
        tail
    };
    near.iter().position(|b| *b == 0).map(|at| clean + at)
}

/// How many bytes of this value stand at the beginning; eight at a time, too.
fn run_of(value: u8, bytes: &[u8]) -> usize {
    let whole = [value; 8];
    let (words, _) = bytes.as_chunks::<8>();
    let same = words
        .iter()
        .position(|word| *word != whole)
        .unwrap_or(words.len())
        * 8;
    same + bytes[same..].iter().take_while(|byte| **byte == value).count()
}

/// Appends `source` without zeros to `out`.
pub(super) fn stuff(source: &[u8], out: &mut Vec<u8>) {
    let mut rest = source;
    loop {
        // binary output has long runs of zeros: each is an empty run and its zero
        let zeros = run_of(0, rest);
        out.resize(out.len() + zeros, 1);
        rest = &rest[zeros..];
        let window = &rest[..rest.len().min(RUN_MAX)];
        if let Some(run) = find_zero(window) {
            push_run(&window[..run], out);
            rest = &rest[run + 1..];
            if rest.is_empty() {
                // without this last code the zero just taken would be the implied one that is dropped
                out.push(1);
                return;
            }
        } else {
            push_run(window, out);
            rest = &rest[window.len()..];
            if rest.is_empty() {
                return;
            }
        }
    }
}

/// Appends the original of `stuffed` to `out`; `None` if it is no stuffed text.
pub(super) fn unstuff(stuffed: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut rest = stuffed;
    while let Some((&code, tail)) = rest.split_first() {
        if code == 1 {
            let codes = run_of(1, rest);
            rest = &rest[codes..];
            let zeros = if rest.is_empty() { codes - 1 } else { codes };
            out.resize(out.len() + zeros, 0);
            continue;
        }
        let run = usize::from(code).checked_sub(1)?;
        out.extend_from_slice(tail.get(..run)?);
        rest = &tail[run..];
        if run < RUN_MAX && !rest.is_empty() {
            out.push(0);
        }
    }
    Some(())
}

fn push_run(run: &[u8], out: &mut Vec<u8>) {
    out.push(u8::try_from(run.len() + 1).expect("a run is at most 254 long"));
    out.extend_from_slice(run);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_zero_is_found_at_every_place() {
        for len in 0..40 {
            assert_eq!(find_zero(&vec![0x80; len]), None);
            for first in 0..len {
                for fill in [1_u8, 0x80, 0xff] {
                    let mut bytes = vec![fill; len];
                    bytes[first] = 0;
                    bytes[len - 1] = 0;
                    assert_eq!(find_zero(&bytes), Some(first));
                }
            }
        }
    }

    #[test]
    fn a_run_is_counted_to_its_last_byte() {
        for len in 0..40 {
            for other in 0..len {
                let mut bytes = vec![1; len];
                bytes[other] = 0;
                assert_eq!((run_of(1, &bytes), run_of(1, &vec![1; len])), (other, len));
            }
        }
        assert_eq!(run_of(0, &[]), 0);
    }

    #[test]
    fn the_edges_of_a_run_come_back_whole() {
        for len in [0, 1, 253, 254, 255, 508, 509, 600] {
            for zero_at in [None, Some(0), Some(1), Some(253), Some(254), Some(len)] {
                let mut source = vec![7_u8; len];
                if let Some(at) = zero_at.filter(|at| *at <= len) {
                    source.insert(at, 0);
                }
                let (mut wire, mut back) = (Vec::new(), Vec::new());
                stuff(&source, &mut wire);
                assert!(!wire.contains(&0));
                assert!(wire.len() <= stuffed_len_max(source.len()));
                assert_eq!(unstuff(&wire, &mut back), Some(()));
                assert_eq!(back, source);
            }
        }
    }
}
