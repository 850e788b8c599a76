//! Settings of programs, from the environment: each is read once, and what cannot be used stops the program with a
//! sentence that names the setting, says what was expected, and what to do.
//!
//! Names are those that operators of such systems already have. An empty value counts as none.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use crate::config::StoreConfig;
use crate::secret::{SECRET_BYTES_MIN, Secret};

pub const MONGODB_URI_DEFAULT: &str = "mongodb://127.0.0.1:27017/cmd-executor";
pub const REDIS_URL_DEFAULT: &str = "redis://127.0.0.1:6379";

/// Secrets that stand in examples: somebody who copied one has none.
const WELL_KNOWN: &[&str] = &["change-me", "changeme", "secret", "your-secret", "default"];

#[derive(Debug, Clone, Default)]
pub struct Settings {
    values: BTreeMap<String, String>,
    /// Development: missing secrets are made for this run alone.
    dev: bool,
}

/// A setting that cannot be used. The value itself is never shown: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SettingError {
    pub name: String,
    pub problem: String,
    pub next: String,
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.name, self.problem, self.next)
    }
}

impl Settings {
    /// Of this process. What is no UTF-8 counts as not set.
    pub fn of_process(dev: bool) -> Self {
        let readable = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self::of(std::env::vars_os().filter_map(readable), dev)
    }

    pub fn of(values: impl IntoIterator<Item = (String, String)>, dev: bool) -> Self {
        let values = values.into_iter().filter(|(_, value)| !value.is_empty());
        Self {
            values: values.collect(),
            dev,
        }
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// # Errors
    /// It is no number, or one out of `range`.
    pub fn number(&self, name: &str, default: u64, range: RangeInclusive<u64>) -> Result<u64, SettingError> {
        let Some(text) = self.text(name) else {
            return Ok(default);
        };
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| SettingError {
            name: name.to_owned(),
            problem: "is not usable".to_owned(),
            next: format!(
                "set a whole number from {} to {}, or leave it out for {default}",
                range.start(),
                range.end()
            ),
        })
    }

    /// What is separated by commas.
    pub fn list(&self, name: &str) -> Vec<String> {
        let parts = self.text(name).unwrap_or_default().split(',');
        parts
            .map(|part| part.trim().to_owned())
            .filter(|part| !part.is_empty())
            .collect()
    }

    /// A secret of at least [`SECRET_BYTES_MIN`] bytes; in development, one for this run where there is none.
    ///
    /// # Errors
    /// It is missing, too short, or one that stands in examples.
    pub fn secret(&self, name: &str) -> Result<Secret<Vec<u8>>, SettingError> {
        let refused = |problem: String| SettingError {
            name: name.to_owned(),
            problem,
            next: format!(
                "set it to what `openssl rand -hex {SECRET_BYTES_MIN}` prints, the same for every replica"
            ),
        };
        match self.text(name) {
            None if self.dev => Ok(Secret::new(rand::random::<[u8; SECRET_BYTES_MIN]>().to_vec())),
            None => Err(refused("is not set".to_owned())),
            Some(text) if is_well_known(text) => Err(refused("is one that stands in examples".to_owned())),
            Some(text) if text.len() < SECRET_BYTES_MIN => Err(refused(format!(
                "has {} bytes, expected at least {SECRET_BYTES_MIN}",
                text.len()
            ))),
            Some(text) => Ok(Secret::new(text.as_bytes().to_vec())),
        }
    }

    /// Where a program of its own keeps things: MongoDB and Redis.
    pub fn store(&self) -> StoreConfig {
        let url = |name, default: &str| Secret::new(self.text(name).unwrap_or(default).to_owned());
        StoreConfig::MongoRedis {
            mongo_url: url("MONGODB_URI", MONGODB_URI_DEFAULT),
            redis_url: url("REDIS_URL", REDIS_URL_DEFAULT),
        }
    }

    /// The one address that a program listens on: `PORT`, where a platform sets it, is that port of every interface.
    ///
    /// # Errors
    /// `PORT` is no port.
    pub fn address(&self, asked: SocketAddr) -> Result<SocketAddr, SettingError> {
        if self.text("PORT").is_none() {
            return Ok(asked);
        }
        let port = self.number("PORT", 0, 1..=u64::from(u16::MAX))?;
        let port = u16::try_from(port).unwrap_or_default();
        Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
    }
}

fn is_well_known(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    WELL_KNOWN
        .iter()
        .any(|known| text == *known || text.starts_with("change-me") || text.starts_with("changeme"))
        || text.bytes().all(|byte| Some(byte) == text.bytes().next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(values: &[(&str, &str)], dev: bool) -> Settings {
        let values = values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::of(values, dev)
    }

    #[test]
    fn a_secret_has_to_be_set_long_and_ones_own() {
        let good = "0123456789abcdef0123456789abcdef";
        for (value, problem) in [
            ("", "is not set"),
            ("short", "has 5 bytes"),
            ("change-me-change-me-change-me-change-me", "examples"),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "examples"),
        ] {
            let error = settings(&[("JWT_SECRET", value)], false)
                .secret("JWT_SECRET")
                .unwrap_err();
            let text = error.to_string();
            assert!(text.contains("JWT_SECRET") && text.contains(problem), "{text}");
            assert!(text.contains("openssl rand"), "{text}");
        }
        let kept = settings(&[("JWT_SECRET", good)], false)
            .secret("JWT_SECRET")
            .unwrap();
        assert_eq!(kept.expose(), good.as_bytes());
    }

    #[test]
    fn in_development_a_missing_secret_is_made_but_a_bad_one_is_still_refused() {
        let one = settings(&[], true).secret("JWT_SECRET").unwrap();
        let other = settings(&[], true).secret("JWT_SECRET").unwrap();
        assert_eq!(one.expose().len(), SECRET_BYTES_MIN);
        assert_ne!(one.expose(), other.expose());
        assert!(
            settings(&[("JWT_SECRET", "short")], true)
                .secret("JWT_SECRET")
                .is_err()
        );
    }

    #[test]
    fn a_number_is_taken_within_its_range_alone() {
        let read = |value| settings(&[("N", value)], false).number("N", 7, 1..=10);
        assert_eq!((read(""), read("3")), (Ok(7), Ok(3)));
        for bad in ["0", "11", "-1", "x", "1.5", " 3"] {
            let error = read(bad).unwrap_err().to_string();
            assert!(error.contains("from 1 to 10") && error.contains('7'), "{error}");
        }
    }

    #[test]
    fn the_platforms_port_wins_on_every_interface() {
        let asked: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        assert_eq!(settings(&[], false).address(asked), Ok(asked));
        let given = settings(&[("PORT", "9000")], false).address(asked).unwrap();
        assert_eq!(given.to_string(), "0.0.0.0:9000");
        assert!(settings(&[("PORT", "http")], false).address(asked).is_err());
    }

    #[test]
    fn a_list_is_what_stands_between_commas() {
        let read = settings(&[("L", " https://a.example, ,https://b.example ")], false).list("L");
        assert_eq!(read, ["https://a.example", "https://b.example"]);
        assert_eq!(settings(&[], false).list("L"), Vec::<String>::new());
    }
}
