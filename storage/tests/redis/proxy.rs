//! A link that can be made to swallow everything: connections stay open on both sides, and nothing passes any more.

use std::net::SocketAddr;

use common::tasks::Tasks;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Proxy {
    pub address: SocketAddr,
    /// How often the link was cut. What connected before a cut never passes anything again.
    cuts: watch::Sender<u32>,
    swallows: watch::Sender<bool>,
    tasks: Tasks,
}

impl Proxy {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, cut) = watch::channel(0);
        let (swallows, swallowing) = watch::channel(false);
        let tasks = Tasks::new();
        let stopping = tasks.stopping().clone();
        let family = tasks.clone();
        tasks.spawn("proxy", async move {
            loop {
                let (inside, _) = tokio::select! {
                    () = stopping.cancelled() => return,
                    accepted = listener.accept() => accepted.unwrap(),
                };
                let (cut, swallowing) = (cut.clone(), swallowing.clone());
                family.spawn("proxy-link", carry(inside, port, cut, swallowing));
            }
        });
        Self {
            address,
            cuts,
            swallows,
            tasks,
        }
    }

    /// From now on nothing passes, on no connection.
    pub fn cut(&self) {
        self.swallows.send_replace(true);
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// New connections pass; those from before stay as dead as they are.
    pub fn heal(&self) {
        self.swallows.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

async fn carry(inside: TcpStream, port: u16, cut: watch::Receiver<u32>, swallowing: watch::Receiver<bool>) {
    let born = if *swallowing.borrow() {
        None
    } else {
        Some(*cut.borrow())
    };
    let Ok(outside) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let (inside_read, inside_write) = inside.into_split();
    let (outside_read, outside_write) = outside.into_split();
    let alive = || {
        let cut = cut.clone();
        move || born == Some(*cut.borrow())
    };
    tokio::join!(
        pour(inside_read, outside_write, alive()),
        pour(outside_read, inside_write, alive()),
    );
}

/// Reads until the end, and writes what it reads for as long as the link is alive.
async fn pour(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, alive: impl Fn() -> bool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if alive() && to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
