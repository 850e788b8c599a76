//! Reads server-sent events from bytes as they arrive. Memory is bounded: an event larger than [`EVENT_BYTES_MAX`] is
//! an error, not a growing buffer.

/// A chunk of 64 KiB in base64 with its JSON takes 88 KiB; four times that leaves room for what is to come.
pub const EVENT_BYTES_MAX: usize = 512 * 1024;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub data: String,
    /// The id in force, also where this event had none of its own.
    pub id: Option<String>,
}

/// The server sent an event larger than [`EVENT_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {EVENT_BYTES_MAX} bytes")]
pub struct TooLong;

#[derive(Debug, Default)]
pub struct EventParser {
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    after_return: bool,
    name: String,
    data: String,
    has_data: bool,
    id: Option<String>,
}

impl EventParser {
    /// Takes bytes and appends the events that they complete.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<Event>) -> Result<(), TooLong> {
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => self.end_of_line(events)?,
                other => {
                    if self.line.len() >= EVENT_BYTES_MAX {
                        return Err(TooLong);
                    }
                    self.line.push(other);
                }
            }
        }
        Ok(())
    }

    fn end_of_line(&mut self, events: &mut Vec<Event>) -> Result<(), TooLong> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            if self.has_data {
                events.push(Event {
                    name: std::mem::take(&mut self.name),
                    data: std::mem::take(&mut self.data),
                    id: self.id.clone(),
                });
            }
            self.name.clear();
            self.data.clear();
            self.has_data = false;
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "data" => {
                if self.data.len() + value.len() >= EVENT_BYTES_MAX {
                    return Err(TooLong);
                }
                if self.has_data {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                self.has_data = true;
            }
            // comments, `retry` and what is to come
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STREAM: &[u8] = b": hello\n\nevent: log\nid: 1:2\ndata: {\"a\":1}\n\nretry: 5\r\nevent:state\r\ndata: x\r\ndata: y\r\n\r\nevent: nothing\n\n";

    fn expected() -> Vec<Event> {
        let event = |name: &str, data: &str| Event {
            name: name.into(),
            data: data.into(),
            id: Some("1:2".into()),
        };
        vec![event("log", "{\"a\":1}"), event("state", "x\ny")]
    }

    proptest! {
        #[test]
        fn where_the_network_cuts_changes_nothing(cuts in proptest::collection::vec(1usize..9, 0..120)) {
            let mut parser = EventParser::default();
            let mut events = Vec::new();
            let mut rest = STREAM;
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                parser.push(now, &mut events).unwrap();
                rest = later;
            }
            parser.push(rest, &mut events).unwrap();
            prop_assert_eq!(events, expected());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = EventParser::default().push(&bytes, &mut Vec::new());
        }
    }

    #[test]
    fn an_event_without_end_is_an_error_and_no_growing_buffer() {
        let mut parser = EventParser::default();
        let mut events = Vec::new();
        let endless = (0..).find_map(|_| parser.push(&[b'x'; 65_536], &mut events).err());
        assert_eq!(endless, Some(TooLong));
        let mut parser = EventParser::default();
        let endless = (0..).find_map(|_| parser.push(b"data: 0123456789\n", &mut events).err());
        assert_eq!(endless, Some(TooLong));
    }
}
