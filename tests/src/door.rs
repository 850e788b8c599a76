//! A TCP address that stays while the server behind it is killed and comes back elsewhere.
//!
//! Connections are passed on byte by byte to where the door leads at that moment; when either side closes, both do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use common::tasks::Tasks;
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Clone)]
pub struct Door {
    address: SocketAddr,
    leads_to: Arc<Mutex<SocketAddr>>,
}

impl Door {
    /// # Errors
    /// When no port can be had.
    pub async fn open(leads_to: SocketAddr, tasks: &Tasks) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let door = Self {
            address: listener.local_addr()?,
            leads_to: Arc::new(Mutex::new(leads_to)),
        };
        let (behind, passing) = (door.clone(), tasks.clone());
        tasks.spawn("door", async move {
            let stopping = passing.stopping().clone();
            while let Some(Ok((visitor, _))) = stopping.run_until_cancelled(listener.accept()).await {
                let (behind, stopping) = (behind.clone(), stopping.clone());
                passing.spawn("visitor", async move {
                    stopping.run_until_cancelled(behind.pass(visitor)).await;
                });
            }
        });
        Ok(door)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn lead_to(&self, address: SocketAddr) {
        *self.leads_to.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    async fn pass(&self, mut visitor: TcpStream) {
        let to = *self.leads_to.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(mut server) = TcpStream::connect(to).await {
            // Either side may break off at any time: that is what the door is for.
            let _ = tokio::io::copy_bidirectional(&mut visitor, &mut server).await;
        }
    }
}
