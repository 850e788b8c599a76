//! A host of its own, as far as the network goes: a namespace with one cable to this machine, which can be pulled.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use anyhow::Result;

use crate::scripts::run;

#[derive(Debug)]
pub struct Namespace {
    name: String,
    cable: String,
    host: Ipv4Addr,
}

impl Namespace {
    /// # Errors
    /// Without the rights of root.
    pub fn make() -> Result<Self> {
        let [a, b, c, d] = rand::random::<[u8; 4]>();
        let tag = format!("{a:02x}{b:02x}{c:02x}{d:02x}");
        // of a /30 in the middle of 10/8, by lot: several tests may do this at a time
        let network = [10, 64 | (a & 63), b, c & 0b1111_1100];
        let at = |last: u8| Ipv4Addr::new(network[0], network[1], network[2], network[3] | last);
        let made = Self {
            name: format!("jw-{tag}"),
            cable: format!("jwv{tag}"),
            host: at(1),
        };
        let (inner, host, guest) = (
            format!("jwg{tag}"),
            format!("{}/30", at(1)),
            format!("{}/30", at(2)),
        );
        let name = made.name.as_str();
        for words in [
            vec!["netns", "add", name],
            vec![
                "link",
                "add",
                &made.cable,
                "type",
                "veth",
                "peer",
                "name",
                &inner,
                "netns",
                name,
            ],
            vec!["address", "add", &host, "dev", &made.cable],
            vec!["link", "set", &made.cable, "up"],
            vec!["-n", name, "address", "add", &guest, "dev", &inner],
            vec!["-n", name, "link", "set", &inner, "up"],
            vec!["-n", name, "link", "set", "lo", "up"],
        ] {
            run(Command::new("ip").args(words))?;
        }
        Ok(made)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// This machine, as it is seen from there.
    pub const fn host(&self) -> IpAddr {
        IpAddr::V4(self.host)
    }

    /// # Errors
    /// When the system refuses.
    pub fn pull(&self) -> Result<()> {
        run(Command::new("ip").args(["link", "set", &self.cable, "down"]))?;
        Ok(())
    }

    /// # Errors
    /// When the system refuses.
    pub fn plug(&self) -> Result<()> {
        run(Command::new("ip").args(["link", "set", &self.cable, "up"]))?;
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // its end of the cable goes with it, and so does ours
        let _ = run(Command::new("ip").args(["link", "delete", &self.cable]));
        let _ = run(Command::new("ip").args(["netns", "delete", &self.name]));
    }
}
