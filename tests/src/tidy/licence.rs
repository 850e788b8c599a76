//! Licence expressions (SPDX): whether what a package offers can be met by the licences that we accept.

/// Whether the expression is satisfied when exactly the licences are accepted for which `accepted` is true.
/// What cannot be read is not accepted.
pub fn is_met(expression: &str, accepted: &dyn Fn(&str) -> bool) -> bool {
    // Older packages write MIT/Apache-2.0 and mean OR.
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader {
        tokens: &tokens,
        at: 0,
        accepted,
    };
    let met = reader.any();
    met == Some(true) && reader.at == tokens.len()
}

struct Reader<'a> {
    tokens: &'a [&'a str],
    at: usize,
    accepted: &'a dyn Fn(&str) -> bool,
}

impl Reader<'_> {
    fn next_is(&mut self, word: &str) -> bool {
        let found = self.tokens.get(self.at) == Some(&word);
        if found {
            self.at += 1;
        }
        found
    }

    fn any(&mut self) -> Option<bool> {
        let mut met = self.all()?;
        while self.next_is("OR") {
            met |= self.all()?;
        }
        Some(met)
    }

    fn all(&mut self) -> Option<bool> {
        let mut met = self.one()?;
        while self.next_is("AND") {
            met &= self.one()?;
        }
        Some(met)
    }

    fn one(&mut self) -> Option<bool> {
        if self.next_is("(") {
            let met = self.any()?;
            return self.next_is(")").then_some(met);
        }
        let name = *self
            .tokens
            .get(self.at)
            .filter(|token| !["OR", "AND", "WITH", ")"].contains(*token))?;
        self.at += 1;
        if self.next_is("WITH") {
            let exception = *self.tokens.get(self.at)?;
            self.at += 1;
            // An exception only grants more, so the plain licence accepts it too.
            return Some((self.accepted)(&format!("{name} WITH {exception}")) || (self.accepted)(name));
        }
        Some((self.accepted)(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(expression: &str) -> bool {
        is_met(expression, &|name| {
            ["MIT", "Apache-2.0", "Unicode-3.0"].contains(&name)
        })
    }

    #[test]
    fn a_choice_is_met_by_one_side_and_a_conjunction_by_both() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0 OR MIT",
            "GPL-3.0/MIT",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
        ] {
            assert!(met(good), "{good}");
        }
        for bad in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "(MIT AND GPL-3.0) OR BSL-1.1",
            "GPL-3.0 OR AGPL-3.0",
        ] {
            assert!(!met(bad), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_accepted() {
        for bad in ["", "MIT OR", "(MIT", "MIT MIT", "OR MIT", "MIT)", "MIT WITH"] {
            assert!(!met(bad), "{bad}");
        }
    }
}
