//! Init's few arguments, given by the agent. Anything not understood stops the program with a sentence.

/// The ring's size where the agent names none; added to the job's memory limit.
const RING_BYTES_DEFAULT: usize = 1024 * 1024;
/// Two whole chunks, or the job could not write while one is on its way.
const RING_BYTES_MIN: usize = 128 * 1024;
/// More is a mistake: it counts against the container's memory.
const RING_BYTES_MAX: usize = 256 * 1024 * 1024;
/// A container never told `run` is nobody's: long enough for an agent that restarts, short enough not to gather.
const WAIT_MS_DEFAULT: u64 = 60_000;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of unacknowledged frames held over both streams, their bookkeeping included.
    pub ring_bytes: usize,
    /// How long to wait for `run` before leaving.
    pub wait_ms: u64,
}

impl Settings {
    /// `--ring-bytes=N` and `--wait-ms=N`.
    pub fn from_args(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut settings = Self {
            ring_bytes: RING_BYTES_DEFAULT,
            wait_ms: WAIT_MS_DEFAULT,
        };
        for arg in args {
            match arg.split_once('=') {
                Some(("--ring-bytes", n)) => {
                    let bytes: usize = n.parse().map_err(|_| format!("{arg}: not a number of bytes"))?;
                    settings.ring_bytes = bytes.clamp(RING_BYTES_MIN, RING_BYTES_MAX);
                }
                Some(("--wait-ms", n)) => {
                    settings.wait_ms = n
                        .parse()
                        .map_err(|_| format!("{arg}: not a number of milliseconds"))?;
                }
                _ => {
                    return Err(format!(
                        "{arg}: unknown; --ring-bytes=N and --wait-ms=N are known"
                    ));
                }
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Settings, String> {
        Settings::from_args(args.iter().map(ToString::to_string))
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(parse(&["--ring-bytes=x"]).is_err());
        assert!(parse(&["--ring-size=1"]).is_err());
        assert!(parse(&["sh"]).is_err());
    }

    #[test]
    fn the_ring_always_takes_a_whole_chunk() {
        assert_eq!(parse(&["--ring-bytes=1"]).unwrap().ring_bytes, RING_BYTES_MIN);
        assert_eq!(parse(&[]).unwrap().ring_bytes, RING_BYTES_DEFAULT);
    }
}
