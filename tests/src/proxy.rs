//! A TCP address with weather of our own: what connects to it is passed on, late, in one direction only, or not at all.
//!
//! Several servers may stand behind it, as behind a load balancer: connections go to them in turn, past those that
//! refuse. Bytes that are held are delivered when it clears, as after a cut that TCP outlives; a connection that bytes
//! were swallowed of never passes anything again, as after a cable was pulled for good.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use common::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::replay::Replay;

/// What passes at a time.
const BUFFER_LEN: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Both,
    ToServer,
    ToClient,
}

impl Way {
    const fn covers(self, to_server: bool) -> bool {
        match self {
            Self::Both => true,
            Self::ToServer => to_server,
            Self::ToClient => !to_server,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Clear,
    /// Nothing passes; all of it does later.
    Holds(Way),
    /// A connection stands still from the first piece to the server on that contains these bytes; that piece and all
    /// behind it pass later. Others are let through.
    HoldsAt(&'static [u8]),
    /// From the first piece to the server on that contains these bytes nothing comes back on its connection; all of it
    /// does later. So what was asked for happens, and nobody hears of it.
    HoldsAnswersTo(&'static [u8]),
    /// What is sent is gone, and so is the connection, of which nobody is told.
    Swallows(Way),
    /// Each piece comes so much later.
    Delays(Duration),
    /// Every connection is closed, and each new one at once.
    Breaks,
    /// The client's results and pieces of logs come three times, logs out of order too.
    Repeats,
}

#[derive(Debug, Clone)]
pub struct Proxy {
    address: SocketAddr,
    servers: Arc<Mutex<Vec<SocketAddr>>>,
    turn: Arc<AtomicUsize>,
    weather: watch::Sender<Weather>,
    /// How often the bytes of [`Weather::HoldsAt`] stood in what it has held so far, or those of
    /// [`Weather::HoldsAnswersTo`] in what it has let through.
    caught: Arc<AtomicUsize>,
}

impl Proxy {
    /// On this machine alone.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn open(servers: Vec<SocketAddr>, tasks: &Tasks) -> Result<Self> {
        Self::open_at(IpAddr::V4(Ipv4Addr::LOCALHOST), servers, tasks).await
    }

    /// # Errors
    /// When no port can be had there.
    pub async fn open_at(at: IpAddr, servers: Vec<SocketAddr>, tasks: &Tasks) -> Result<Self> {
        let listener = TcpListener::bind((at, 0)).await?;
        let proxy = Self {
            address: listener.local_addr()?,
            servers: Arc::new(Mutex::new(servers)),
            turn: Arc::default(),
            weather: watch::channel(Weather::Clear).0,
            caught: Arc::default(),
        };
        let (behind, passing) = (proxy.clone(), tasks.clone());
        tasks.spawn("proxy", async move {
            let stopping = passing.stopping().clone();
            while let Some(Ok((visitor, _))) = stopping.run_until_cancelled(listener.accept()).await {
                let (behind, stopping) = (behind.clone(), stopping.clone());
                passing.spawn("proxied", async move {
                    stopping.run_until_cancelled(behind.pass(visitor)).await;
                });
            }
        });
        Ok(proxy)
    }

    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn turns(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// How often the bytes of [`Weather::HoldsAt`] stood in what it has held, or those of [`Weather::HoldsAnswersTo`]
    /// in what it has let through, all its times together.
    pub fn caught(&self) -> usize {
        self.caught.load(Ordering::SeqCst)
    }

    pub fn clears(&self) {
        self.turns(Weather::Clear);
    }

    /// From now on these stand behind it, for new connections.
    pub fn lead_to(&self, servers: Vec<SocketAddr>) {
        *self.servers.lock().unwrap_or_else(PoisonError::into_inner) = servers;
    }

    async fn pass(&self, visitor: TcpStream) {
        let mut weather = self.weather.subscribe();
        if *weather.borrow_and_update() == Weather::Breaks {
            return;
        }
        let Some(server) = self.connect().await else {
            return;
        };
        let (_, _) = (visitor.set_nodelay(true), server.set_nodelay(true));
        let ((visitor_read, visitor_write), (server_read, server_write)) =
            (visitor.into_split(), server.into_split());
        let breaks = async {
            // the sender lives as long as we do
            let _ = weather.wait_for(|now| *now == Weather::Breaks).await;
        };
        let asked = AtomicBool::new(false);
        let to_server = pour(visitor_read, server_write, self, true, &asked);
        let to_client = pour(server_read, visitor_write, self, false, &asked);
        tokio::select! {
            () = breaks => {}
            _ = async { tokio::join!(to_server, to_client) } => {}
        }
    }

    /// Of a piece to the server, before it passes: so its answer is not on its way yet.
    fn mark(&self, now: Weather, piece: &[u8], asked: &AtomicBool) {
        match now {
            Weather::HoldsAt(bytes) => {
                self.caught.fetch_add(times(piece, bytes), Ordering::SeqCst);
            }
            Weather::HoldsAnswersTo(bytes) => {
                let times = times(piece, bytes);
                self.caught.fetch_add(times, Ordering::SeqCst);
                asked.fetch_or(times > 0, Ordering::SeqCst);
            }
            _ => asked.store(false, Ordering::SeqCst),
        }
    }

    async fn connect(&self) -> Option<TcpStream> {
        let servers = self
            .servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        for place in 0..servers.len() {
            if let Ok(server) = TcpStream::connect(servers[(first + place) % servers.len()]).await {
                return Some(server);
            }
        }
        None
    }
}

/// One direction of a connection. `asked`: the other one's question of [`Weather::HoldsAnswersTo`] has come by.
async fn pour(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    proxy: &Proxy,
    to_server: bool,
    asked: &AtomicBool,
) {
    let mut weather = proxy.weather.subscribe();
    let mut buffer = vec![0; BUFFER_LEN];
    let mut replay = Replay::default();
    let swallows = |now: &Weather| matches!(now, Weather::Swallows(way) if way.covers(to_server));
    let holds = |now: &Weather, piece: &[u8]| match now {
        Weather::Holds(way) => way.covers(to_server),
        Weather::HoldsAt(bytes) => to_server && times(piece, bytes) > 0,
        Weather::HoldsAnswersTo(_) => !to_server && asked.load(Ordering::SeqCst),
        _ => false,
    };
    let mut lost = swallows(&weather.borrow());
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = weather.wait_for(|now| !lost && swallows(now)) => {
                // also what connected before, and says nothing meanwhile
                lost = true;
                continue;
            }
        };
        let Ok(read @ 1..) = read else { break };
        let piece = &buffer[..read];
        let now = *weather.borrow();
        if to_server {
            proxy.mark(now, piece, asked);
        }
        if weather.wait_for(|now| !holds(now, piece)).await.is_err() {
            return;
        }
        let now = *weather.borrow();
        lost |= swallows(&now);
        if lost {
            continue;
        }
        if let Weather::Delays(late) = now {
            // the delay is what this weather is. tidy: poll
            tokio::time::sleep(late).await;
        }
        let written = if to_server {
            to.write_all(&replay.pass(piece, now == Weather::Repeats)).await
        } else {
            to.write_all(piece).await
        };
        if written.is_err() {
            return;
        }
    }
    if lost {
        // the other side is never told
        std::future::pending::<()>().await;
    }
}

/// How often the bytes stand in a piece.
fn times(piece: &[u8], bytes: &[u8]) -> usize {
    piece.windows(bytes.len()).filter(|part| *part == bytes).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::{LONG, wait_for};

    /// A server that echoes, and a proxy before it.
    async fn before_an_echo(tasks: &Tasks) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let inside = tasks.clone();
        tasks.spawn("echo", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                inside.spawn("echoes", async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        Proxy::open(vec![address], tasks).await.unwrap()
    }

    async fn says(stream: &mut TcpStream, text: &[u8]) -> bool {
        stream.write_all(text).await.unwrap();
        let mut heard = vec![0; text.len()];
        let answer = tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut heard)).await;
        matches!(answer, Ok(Ok(_))) && heard == text
    }

    #[tokio::test]
    async fn what_is_held_comes_later_and_what_is_swallowed_never() {
        let tasks = Tasks::new();
        let proxy = before_an_echo(&tasks).await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(says(&mut stream, b"one").await);
        proxy.turns(Weather::Holds(Way::ToClient));
        assert!(!says(&mut stream, b"two").await);
        proxy.clears();
        let mut heard = [0; 3];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"two");

        proxy.turns(Weather::HoldsAt(b"claim"));
        assert!(says(&mut stream, b"a result").await && proxy.caught() == 0);
        assert!(!says(&mut stream, b"a claim").await && proxy.caught() == 1);
        let mut other = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(says(&mut other, b"five").await, "others pass");
        proxy.clears();
        let mut heard = [0; 7];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"a claim");

        proxy.turns(Weather::HoldsAnswersTo(b"insert"));
        assert!(says(&mut stream, b"a question").await && proxy.caught() == 1);
        assert!(!says(&mut stream, b"an insert").await && proxy.caught() == 2);
        let mut other = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(says(&mut other, b"six").await, "others are answered");
        proxy.clears();
        let mut heard = [0; 9];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"an insert");
        assert!(says(&mut stream, b"seven").await);

        proxy.turns(Weather::Swallows(Way::Both));
        assert!(!says(&mut stream, b"three").await);
        proxy.clears();
        assert!(!says(&mut stream, b"four").await, "it is as dead as before");
        let mut other = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(says(&mut other, b"five").await);
        tasks.stop();
    }

    #[tokio::test]
    async fn a_server_that_refuses_is_passed_by_and_a_break_closes_what_was_open() {
        let tasks = Tasks::new();
        let proxy = before_an_echo(&tasks).await;
        let nobody = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let away = nobody.local_addr().unwrap();
        drop(nobody);
        let both = Proxy::open(vec![away, proxy.address()], &tasks).await.unwrap();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(both.address()).await.unwrap();
            assert!(says(&mut stream, b"one").await);
            both.turns(Weather::Breaks);
            let closed = wait_for(LONG, "the end of a connection", async || {
                match stream.read(&mut [0; 1]).await {
                    Ok(0) | Err(_) => Ok(()),
                    Ok(_) => Err("something came".to_owned()),
                }
            });
            closed.await.unwrap();
            both.clears();
        }
        tasks.stop();
    }
}
