//! What the server does in one step that nobody else can come between, each script a file of `lua/`.
//!
//! Every key begins with the hash tag of [`super::keys::Keys`], so a cluster keeps them on one node; that is also why
//! the queue's scripts may name the sets of lanes by themselves.

use std::sync::LazyLock;

use redis::{Cmd, Script, ToRedisArgs};

macro_rules! scripts {
    ($($name:ident = $file:literal;)+) => {
        $(pub static $name: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!(concat!("lua/", $file))));)+

        pub const CODE: &[&str] = &[$(include_str!(concat!("lua/", $file)),)+];

        /// Commands that make every script known to a server.
        pub fn load_all() -> Vec<Cmd> {
            CODE.iter()
                .map(|code| {
                    let mut load = redis::cmd("SCRIPT");
                    load.arg("LOAD").arg(*code);
                    load
                })
                .collect()
        }
    };
}

scripts! {
    PUSH = "push.lua";
    REMOVE = "remove.lua";
    CLEAR = "clear.lua";
    MARK_BUILT = "mark_built.lua";
    RENEW = "renew.lua";
    RELEASE = "release.lua";
    USE_ONCE = "use_once.lua";
    CHECK = "check.lua";
}

/// The call of a script that the server knows.
pub fn call(script: &Script, keys: &[&str], arguments: impl ToRedisArgs) -> Cmd {
    let mut call = redis::cmd("EVALSHA");
    call.arg(script.get_hash())
        .arg(keys.len())
        .arg(keys)
        .arg(arguments);
    call
}
