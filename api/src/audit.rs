//! Who did what, one line each, under the target `audit`. Names come from outside and are written escaped.

use common::identity::Principal;

/// Something that an auditor asks for happened or was refused. `about` never holds a secret.
pub fn record(who: &Principal, what: &'static str, about: &str) {
    tracing::info!(target: "audit", user = ?who.user, account = ?who.account, what, about = ?about);
}

/// As [`record`], where nobody is signed in.
pub fn record_unknown(name: &str, what: &'static str) {
    tracing::info!(target: "audit", user = ?name, what);
}
