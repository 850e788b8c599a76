//! Makes a job's output harmless for a terminal, chunk by chunk.
//!
//! A job is a stranger's program: its bytes may move the cursor over what was printed before, rename the window, write
//! into the clipboard or answer questions that nobody asked. Of all control sequences only colours (SGR) stay; of the
//! control characters only line feed and tab. A carriage return becomes a line feed, so that a progress bar stays
//! readable and no line is ever written over. Text passes unchanged, broken UTF-8 is shown as U+FFFD.
//!
//! The state between two chunks is bounded: a sequence of more than [`SEQUENCE_BYTES_MAX`] is swallowed, not kept.

/// Longest colour sequence that is passed on. Real ones have up to 20 bytes; a longer one is noise.
const SEQUENCE_BYTES_MAX: usize = 64;

/// Longest string sequence (OSC, DCS, …) that is waited for; past this the terminator is given up and text goes on, so
/// that a lone introducer cannot hide the rest of the output.
const STRING_BYTES_MAX: usize = 4_096;

const ESC: u8 = 0x1b;

/// One stream's filter.
#[derive(Debug, Default)]
pub struct Sanitiser {
    /// The beginning of a UTF-8 character whose end is in the next chunk: at most 3 bytes.
    partial: Vec<u8>,
    state: State,
    /// Whether the last character was a carriage return, so that CR LF is one line feed.
    after_return: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC and intermediate bytes: one final byte is to come.
    Intermediate,
    /// After ESC [ : what has been read, empty once it is too long to be passed on.
    Csi { read: Vec<u8>, too_long: bool },
    /// Within OSC, DCS, SOS, PM or APC: until BEL, ST or the bound.
    String { bytes: usize, escape: bool },
}

impl Sanitiser {
    /// Appends what of `input` may be shown to `output`.
    pub fn push(&mut self, input: &[u8], output: &mut Vec<u8>) {
        let joined;
        let mut rest = if self.partial.is_empty() {
            input
        } else {
            let mut bytes = std::mem::take(&mut self.partial);
            bytes.extend_from_slice(input);
            joined = bytes;
            joined.as_slice()
        };
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.text(text, output);
                    rest = &[];
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    self.text(std::str::from_utf8(good).unwrap_or_default(), output);
                    match error.error_len() {
                        Some(length) => {
                            self.character(char::REPLACEMENT_CHARACTER, output);
                            rest = &bad[length..];
                        }
                        None => {
                            self.partial.extend_from_slice(bad);
                            rest = &[];
                        }
                    }
                }
            }
        }
    }

    /// The end of the stream: half a character is shown as broken, half a sequence is dropped.
    pub fn finish(&mut self, output: &mut Vec<u8>) {
        if !self.partial.is_empty() {
            self.partial.clear();
            self.character(char::REPLACEMENT_CHARACTER, output);
        }
        self.state = State::Text;
    }

    fn text(&mut self, text: &str, output: &mut Vec<u8>) {
        for character in text.chars() {
            self.character(character, output);
        }
    }

    fn character(&mut self, c: char, output: &mut Vec<u8>) {
        match &mut self.state {
            State::Text => self.plain(c, output),
            State::Escape => self.state = after_escape(c),
            State::Intermediate => {
                if !('\u{20}'..='\u{2f}').contains(&c) {
                    self.state = State::Text;
                    if is_interrupting(c) {
                        self.plain(c, output);
                    }
                }
            }
            State::Csi { read, too_long } => match c {
                '\u{20}'..='\u{3f}' => {
                    if read.len() < SEQUENCE_BYTES_MAX {
                        read.push(c as u8);
                    } else {
                        *too_long = true;
                    }
                }
                'm' if !*too_long && read.iter().all(|b| matches!(b, b'0'..=b';')) => {
                    output.extend_from_slice(&[ESC, b'[']);
                    output.extend_from_slice(read);
                    output.push(b'm');
                    self.state = State::Text;
                }
                '\u{40}'..='\u{7e}' => self.state = State::Text,
                // anything else breaks the sequence off
                other => {
                    self.state = State::Text;
                    self.plain(other, output);
                }
            },
            State::String { bytes, escape } => {
                *bytes += c.len_utf8();
                let ended = matches!(c, '\u{7}' | '\u{9c}' | '\u{18}' | '\u{1a}') || (*escape && c == '\\');
                if ended || *bytes > STRING_BYTES_MAX {
                    self.state = State::Text;
                } else if *escape {
                    // an escape that is not the terminator begins a new sequence
                    self.state = after_escape(c);
                } else {
                    *escape = c as u32 == u32::from(ESC);
                }
            }
        }
    }

    fn plain(&mut self, c: char, output: &mut Vec<u8>) {
        let after_return = std::mem::replace(&mut self.after_return, c == '\r');
        match c {
            '\u{1b}' => self.state = State::Escape,
            '\u{9b}' => self.state = csi(),
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => self.state = string(),
            '\n' if after_return => {}
            '\n' | '\r' => output.push(b'\n'),
            '\t' => output.push(b'\t'),
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' => {}
            // bidirectional overrides make text read as something else than it is
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            shown => output.extend_from_slice(shown.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn after_escape(c: char) -> State {
    match c {
        '[' => csi(),
        ']' | 'P' | 'X' | '^' | '_' => string(),
        '\u{1b}' => State::Escape,
        '\u{20}'..='\u{2f}' => State::Intermediate,
        _ => State::Text,
    }
}

const fn csi() -> State {
    State::Csi {
        read: Vec::new(),
        too_long: false,
    }
}

const fn string() -> State {
    State::String {
        bytes: 0,
        escape: false,
    }
}

const fn is_interrupting(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{1b}')
}

/// One line of text from outside, for a table or a sentence: no controls, no colours, no line breaks.
pub fn line(text: &str) -> String {
    let mut filtered = Vec::with_capacity(text.len());
    let mut filter = Sanitiser::default();
    filter.push(text.as_bytes(), &mut filtered);
    filter.finish(&mut filtered);
    let text = String::from_utf8_lossy(&filtered);
    let mut out = String::with_capacity(text.len());
    let mut in_colour = false;
    for c in text.chars() {
        match c {
            '\u{1b}' => in_colour = true,
            'm' if in_colour => in_colour = false,
            _ if in_colour => {}
            '\n' | '\t' => out.push(' '),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(input: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut filter = Sanitiser::default();
        filter.push(input, &mut out);
        filter.finish(&mut out);
        out
    }

    /// What is left once colours are taken out.
    fn without_colours(output: &[u8]) -> Vec<u8> {
        let text = std::str::from_utf8(output).unwrap();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("\u{1b}[") {
            plain.push_str(&rest[..at]);
            let tail = &rest[at + 2..];
            let end = tail.find('m').expect("a colour ends");
            assert!(
                tail[..end]
                    .bytes()
                    .all(|b| b.is_ascii_digit() || b == b';' || b == b':')
            );
            rest = &tail[end + 1..];
        }
        plain.push_str(rest);
        plain.into_bytes()
    }

    #[test]
    fn what_could_harm_a_terminal_is_taken_out() {
        for (input, shown) in [
            ("\u{1b}[2J\u{1b}[Hhello", "hello"),
            ("\u{1b}]0;title\u{7}text", "text"),
            ("\u{1b}]52;c;aGk=\u{1b}\\text", "text"),
            ("\u{1b}P1$q\u{1b}\\text", "text"),
            ("\u{9b}31mred", "\u{1b}[31mred"),
            ("\u{1b}[31mred\u{1b}[0m", "\u{1b}[31mred\u{1b}[0m"),
            ("\u{1b}[?25lx", "x"),
            ("\u{1b}[>4;1mx", "x"),
            ("\u{1b}(0x", "x"),
            ("\u{1b}c\u{1b}7x", "x"),
            ("a\u{8}\u{7}b\u{7f}\0c", "abc"),
            ("one\r\ntwo\rthree\n", "one\ntwo\nthree\n"),
            ("a\tb\n", "a\tb\n"),
            ("a\u{202e}b", "ab"),
            ("\u{1b}[31", ""),
            ("\u{1b}]0;never ended", ""),
        ] {
            assert_eq!(
                String::from_utf8(whole(input.as_bytes())).unwrap(),
                shown,
                "{input:?}"
            );
        }
    }

    #[test]
    fn broken_text_is_shown_as_broken() {
        assert_eq!(whole(b"a\xffb"), "a\u{fffd}b".as_bytes());
        assert_eq!(whole(b"a\xe2\x82"), "a\u{fffd}".as_bytes());
    }

    #[test]
    fn a_sequence_without_end_neither_grows_nor_hides_everything() {
        let mut filter = Sanitiser::default();
        let mut out = Vec::new();
        filter.push(b"\x1b[", &mut out);
        for _ in 0..10_000 {
            filter.push(b"1;", &mut out);
        }
        let State::Csi { read, .. } = &filter.state else {
            panic!("still within the sequence")
        };
        assert!(read.len() <= SEQUENCE_BYTES_MAX && out.is_empty());

        let mut hidden = b"\x1b]0;".to_vec();
        hidden.extend(std::iter::repeat_n(b'x', STRING_BYTES_MAX + 1));
        hidden.extend_from_slice(b"\nvisible");
        assert!(whole(&hidden).ends_with(b"visible"));
    }

    #[test]
    fn a_line_for_a_table_is_one_line_without_colours() {
        assert_eq!(line("a\nb\u{1b}[31mred\u{1b}[0m\u{1b}]0;x\u{7}m"), "a bredm");
    }

    proptest! {
        #[test]
        fn nothing_but_colours_comes_after_an_escape(input in proptest::collection::vec(any::<u8>(), 0..400)) {
            let plain = without_colours(&whole(&input));
            let text = std::str::from_utf8(&plain).unwrap();
            prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
        }

        #[test]
        fn escapes_of_all_kinds_are_harmless(input in "[\u{1b}\u{9b}\u{90}\\[\\]\\\\;0-9mHJPx \u{7}\u{18}\n\r]{0,120}") {
            let plain = without_colours(&whole(input.as_bytes()));
            let text = std::str::from_utf8(&plain).unwrap();
            prop_assert!(!text.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
        }

        #[test]
        fn plain_text_is_unchanged(input in "[\\P{C}\n\t]{0,200}") {
            prop_assert_eq!(whole(input.as_bytes()), input.into_bytes());
        }

        #[test]
        fn where_chunks_end_changes_nothing(input in proptest::collection::vec(prop_oneof![
            Just(0x1bu8), Just(b'['), Just(b'm'), Just(b'3'), Just(b'\r'), Just(b'\n'), any::<u8>()
        ], 0..200), cuts in proptest::collection::vec(1usize..7, 1..100)) {
            let mut filter = Sanitiser::default();
            let mut out = Vec::new();
            let mut rest = input.as_slice();
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                filter.push(now, &mut out);
                rest = later;
            }
            filter.push(rest, &mut out);
            filter.finish(&mut out);
            prop_assert_eq!(out, whole(&input));
        }
    }
}
