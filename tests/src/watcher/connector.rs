//! The kernel's process connector: a netlink socket on which it reports every fork, exec and exit of the machine, each
//! with the time at which it happened.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send, socket_with,
};

use crate::history::Nanos;

/// `CN_IDX_PROC` and `CN_VAL_PROC` of `linux/connector.h`: both the group and the address of the reports.
const PROC: u32 = 1;
/// `PROC_CN_MCAST_LISTEN` of `linux/cn_proc.h`.
const LISTEN: u32 = 1;
/// `NLMSG_DONE`: the message is all there is.
const DONE: u16 = 3;

const ACKNOWLEDGED: u32 = 0;
const FORK: u32 = 1;
const EXEC: u32 = 2;
const EXIT: u32 = 0x8000_0000;

/// Before a report: `nlmsghdr` (16 bytes) and `cn_msg` (20).
const HEAD: usize = 36;
/// Within it: what, CPU, time, and then what it is about.
const ABOUT: usize = HEAD + 16;

/// Builds of the whole machine pass through it; enough for some ten thousand reports.
const BUFFER_BYTES: usize = 8 * 1024 * 1024;
/// Between two looks whether the watcher is to end.
const WAIT: Duration = Duration::from_millis(50);
/// For the kernel to say that it will report.
const ACKNOWLEDGED_TRIES: u32 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Nothing of interest, for now.
    Nothing,
    Forked {
        parent: u32,
        child: u32,
    },
    Executed {
        pid: u32,
        at: Nanos,
    },
    Exited {
        pid: u32,
        at: Nanos,
    },
    /// Reports did not fit into the buffer any more.
    Lost,
}

#[derive(Debug)]
pub struct Connector {
    socket: OwnedFd,
}

impl Connector {
    /// # Errors
    /// When the kernel has none, or does not report to us.
    pub fn open() -> Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::CONNECTOR),
        )
        .context("no connector in this kernel")?;
        bind(&socket, &SocketAddrNetlink::new(0, PROC)).context("its reports are for root")?;
        set_socket_timeout(&socket, Timeout::Recv, Some(WAIT))?;
        // without the right to it the usual size has to do
        let _ = set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES);
        send(&socket, &listen(), SendFlags::empty()).context("it takes no orders")?;
        let connector = Self { socket };
        for _ in 0..ACKNOWLEDGED_TRIES {
            // silence: another namespace than the machine's own
            let Ok(report) = connector.receive() else { continue };
            match (number(&report, HEAD), number(&report, ABOUT)) {
                (Some(ACKNOWLEDGED), Some(0)) => return Ok(connector),
                (Some(ACKNOWLEDGED), error) => bail!("it answered with error {error:?}"),
                // somebody else's order was heard before ours
                _ => return Ok(connector),
            }
        }
        bail!("it reports nothing here")
    }

    /// Waits a moment at the most.
    pub fn next(&self) -> Heard {
        match self.receive() {
            Ok(report) => understood(&report),
            Err(Errno::NOBUFS) => Heard::Lost,
            Err(_) => Heard::Nothing,
        }
    }

    fn receive(&self) -> rustix::io::Result<Vec<u8>> {
        let mut buffer = [0; 1024];
        let (length, _) = recv(&self.socket, &mut buffer, RecvFlags::empty())?;
        Ok(buffer[..length].to_vec())
    }
}

/// `nlmsghdr`, `cn_msg` and the one word of the order.
fn listen() -> Vec<u8> {
    let mut message = Vec::new();
    let whole = u32::try_from(HEAD + 4).unwrap_or(0);
    message.extend(whole.to_ne_bytes());
    message.extend(DONE.to_ne_bytes());
    message.extend(0u16.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(PROC.to_ne_bytes());
    message.extend(PROC.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(4u16.to_ne_bytes());
    message.extend(0u16.to_ne_bytes());
    message.extend(LISTEN.to_ne_bytes());
    message
}

fn understood(report: &[u8]) -> Heard {
    let word = |place: usize| number(report, ABOUT + 4 * place);
    let time = report
        .get(HEAD + 8..ABOUT)
        .and_then(|bytes| bytes.try_into().ok());
    let (Some(what), Some(at)) = (number(report, HEAD), time.map(u64::from_ne_bytes)) else {
        return Heard::Nothing;
    };
    // each is told for threads too, whose own number differs from that of their process
    match (what, word(0), word(1), word(2), word(3)) {
        (FORK, _, Some(parent), Some(thread), Some(child)) if thread == child => {
            Heard::Forked { parent, child }
        }
        (EXEC, _, Some(pid), ..) => Heard::Executed { pid, at },
        (EXIT, Some(thread), Some(pid), ..) if thread == pid => Heard::Exited { pid, at },
        _ => Heard::Nothing,
    }
}

fn number(report: &[u8], at: usize) -> Option<u32> {
    let bytes = report.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(what: u32, words: &[u32]) -> Vec<u8> {
        let mut report = vec![0; HEAD];
        report.extend(what.to_ne_bytes());
        report.extend(0u32.to_ne_bytes());
        report.extend(77u64.to_ne_bytes());
        report.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        report
    }

    #[test]
    fn reports_of_processes_are_understood_and_those_of_threads_left_out() {
        let fork = |thread| understood(&report(FORK, &[1, 2, thread, 9]));
        assert_eq!(fork(9), Heard::Forked { parent: 2, child: 9 });
        assert_eq!(fork(8), Heard::Nothing);
        assert_eq!(
            understood(&report(EXEC, &[5, 5])),
            Heard::Executed { pid: 5, at: 77 }
        );
        assert_eq!(
            understood(&report(EXIT, &[5, 5, 0, 17])),
            Heard::Exited { pid: 5, at: 77 }
        );
        assert_eq!(understood(&report(EXIT, &[6, 5, 0, 17])), Heard::Nothing);
        assert_eq!(understood(&report(EXIT, &[5])[..HEAD + 8]), Heard::Nothing);
    }

    #[test]
    fn the_order_has_the_length_that_it_says() {
        let order = listen();
        assert_eq!(number(&order, 0), u32::try_from(order.len()).ok());
    }
}
