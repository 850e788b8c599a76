//! Frames of an agent's WebSocket that come several times and out of order: what a link must be able to bear that may
//! break at any moment and is then spoken over again.
//!
//! Understands only as much of RFC 6455 as it takes to find the ends of frames: after the head of the request each
//! frame is a length, a mask and a payload. A frame is repeated as it is, so nothing has to be masked anew.

/// How often each comes.
const TIMES: usize = 3;
/// Pieces of logs that are kept back to be sent in another order.
const WINDOW: usize = 64;
const CONTINUES: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;

/// One direction of one connection, from the agent to the gateway.
#[derive(Debug, Default)]
pub struct Replay {
    /// The request's head has passed.
    speaks: bool,
    /// Nothing that this understands.
    plain: bool,
    pending: Vec<u8>,
    kept: Vec<Vec<u8>>,
    /// What is repeated was the beginning of a message whose rest follows.
    inside: bool,
}

impl Replay {
    /// What to send for these bytes. Frames are looked for from the first byte on, whether they are repeated or not.
    pub fn pass(&mut self, bytes: &[u8], repeats: bool) -> Vec<u8> {
        if self.plain {
            return bytes.to_vec();
        }
        self.pending.extend_from_slice(bytes);
        let mut out = Vec::with_capacity(bytes.len());
        if !self.speaks {
            let Some(end) = find(&self.pending, b"\r\n\r\n") else {
                // a head is small and comes at once; what is none passes as it is
                self.plain = true;
                return std::mem::take(&mut self.pending);
            };
            let head: Vec<u8> = self.pending.drain(..end + 4).collect();
            self.plain = find(&head.to_ascii_lowercase(), b"upgrade: websocket").is_none();
            self.speaks = true;
            out.extend(head);
            if self.plain {
                out.append(&mut self.pending);
                return out;
            }
        }
        while let Some(len) = frame_len(&self.pending) {
            let frame: Vec<u8> = self.pending.drain(..len).collect();
            let kind = if repeats { self.kind(&frame) } else { Kind::Other };
            match kind {
                Kind::Log => {
                    for _ in 0..TIMES {
                        self.kept.push(frame.clone());
                    }
                    if self.kept.len() >= WINDOW {
                        self.release(&mut out);
                    }
                }
                Kind::Result => {
                    self.release(&mut out);
                    for _ in 0..TIMES {
                        out.extend(&frame);
                    }
                }
                Kind::Other => {
                    // a heartbeat comes soon, so nothing is kept for long
                    self.release(&mut out);
                    out.extend(frame);
                }
            }
        }
        out
    }

    /// In another order: the odd ones first, each half backwards.
    fn release(&mut self, out: &mut Vec<u8>) {
        let kept = std::mem::take(&mut self.kept);
        let odd = kept.iter().skip(1).step_by(2).rev();
        let even = kept.iter().step_by(2).rev();
        for frame in odd.chain(even) {
            out.extend(frame);
        }
    }

    fn kind(&mut self, frame: &[u8]) -> Kind {
        let (whole, opcode) = (frame[0] & 0x80 != 0, frame[0] & 0x0f);
        let was_inside = self.inside;
        if matches!(opcode, CONTINUES | TEXT | BINARY) {
            self.inside = !whole;
        }
        if !whole || was_inside {
            return Kind::Other;
        }
        match opcode {
            BINARY => Kind::Log,
            TEXT => {
                let text = unmasked(frame);
                if find(&text, br#""type":"result""#).is_some() {
                    Kind::Result
                } else if find(&text, br#""type":"log-chunk""#).is_some() {
                    Kind::Log
                } else {
                    Kind::Other
                }
            }
            _ => Kind::Other,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Log,
    Result,
    Other,
}

/// Where the length, the mask and the payload begin: the head's length and the payload's.
fn parts(bytes: &[u8]) -> Option<(usize, usize)> {
    let &[_, second, ..] = bytes else { return None };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let (extra, payload) = match second & 0x7f {
        126 => (
            2,
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        ),
        127 => {
            let len = u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?);
            (8, usize::try_from(len).ok()?)
        }
        small => (0, usize::from(small)),
    };
    Some((2 + extra + mask, payload))
}

fn frame_len(bytes: &[u8]) -> Option<usize> {
    let (head, payload) = parts(bytes)?;
    let len = head.checked_add(payload)?;
    (bytes.len() >= len).then_some(len)
}

fn unmasked(frame: &[u8]) -> Vec<u8> {
    let Some((head, _)) = parts(frame) else {
        return Vec::new();
    };
    if frame[1] & 0x80 == 0 {
        return frame[head..].to_vec();
    }
    let mask = &frame[head - 4..head];
    let masked = frame[head..].iter().zip(mask.iter().cycle());
    masked.map(|(byte, mask)| byte ^ mask).collect()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"GET /ws/worker HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";

    fn frame(opcode: u8, text: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(text.len()).unwrap()];
        frame.extend(mask);
        frame.extend(
            text.iter()
                .zip(mask.iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        frame
    }

    #[test]
    fn results_and_logs_come_three_times_and_nothing_else_does() {
        let (beat, result) = (
            frame(TEXT, br#"{"type":"heartbeat"}"#),
            frame(TEXT, br#"{"type":"result"}"#),
        );
        let logs = [frame(BINARY, b"one"), frame(BINARY, b"two")];
        let mut replay = Replay::default();
        let all = [HEAD, &beat, &logs[0], &logs[1], &result, &beat].concat();
        let mut out = Vec::new();
        // however it is cut into pieces after the head
        out.extend(replay.pass(&all[..HEAD.len() + 3], true));
        for byte in &all[HEAD.len() + 3..] {
            out.extend(replay.pass(&[*byte], true));
        }
        let count = |what: &[u8]| out.windows(what.len()).filter(|window| *window == what).count();
        assert_eq!((count(&logs[0]), count(&logs[1])), (3, 3));
        assert_eq!((count(&result), count(&beat)), (3, 2));
        assert_eq!(
            out.len(),
            all.len() + 2 * (logs[0].len() + logs[1].len() + result.len())
        );
        assert!(find(&out, &logs[1]) < find(&out, &logs[0]), "in another order");
        assert!(out.ends_with(&beat));
    }

    #[test]
    fn what_is_no_websocket_passes_as_it_is() {
        let mut replay = Replay::default();
        assert_eq!(replay.pass(b"\x00binary", true), b"\x00binary");
        let mut replay = Replay::default();
        let request = b"POST / HTTP/1.1\r\n\r\nbody".as_slice();
        assert_eq!(replay.pass(request, true), request);
    }
}
