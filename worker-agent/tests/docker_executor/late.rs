//! An engine that loses sight of who asks for a container, and makes it when a test says so; and one that does not list
//! its containers.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use common::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, oneshot};

use super::node::STEP_MAX;

const ENGINE: &str = "/var/run/docker.sock";

/// Stands before the machine's engine. The first request for a container is held back and never answered, lists are
/// refused while a test wants it so; everything else is passed on.
pub struct Late {
    pub socket: PathBuf,
    refuses_lists: Arc<AtomicBool>,
    held: oneshot::Receiver<Vec<u8>>,
    removal: Arc<Notify>,
}

impl Late {
    pub fn before_the_engine(folder: &Path) -> Self {
        let socket = folder.join("engine.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (hold, held) = oneshot::channel();
        let hold = Arc::new(Mutex::new(Some(hold)));
        let removal = Arc::new(Notify::new());
        let refuses_lists = Arc::new(AtomicBool::new(false));
        let (asked, refuses) = (Arc::clone(&removal), Arc::clone(&refuses_lists));
        let tasks = Tasks::new();
        let each = tasks.clone();
        tasks.spawn("engine", async move {
            while let Ok((client, _)) = listener.accept().await {
                let refuses = Arc::clone(&refuses);
                each.spawn(
                    "connection",
                    pass_on(client, Arc::clone(&hold), Arc::clone(&asked), refuses),
                );
            }
        });
        Self {
            socket,
            refuses_lists,
            held,
            removal,
        }
    }

    pub fn refuse_lists(&self, refuses: bool) {
        self.refuses_lists.store(refuses, Ordering::SeqCst);
    }

    /// A removal was asked for and answered.
    pub async fn asked_to_remove(&self) {
        tokio::time::timeout(STEP_MAX, self.removal.notified())
            .await
            .expect("nobody asks for its removal");
    }

    /// Lets the engine do what was held back; answers its answer.
    pub async fn make(&mut self) -> String {
        let request = (&mut self.held).await.unwrap();
        let mut engine = UnixStream::connect(ENGINE).await.unwrap();
        engine.write_all(&request).await.unwrap();
        let mut answer = vec![0; 4_096];
        let length = engine.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }
}

const REFUSAL: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\n\
                         connection: close\r\ncontent-length: 30\r\n\r\n{\"message\":\"the list is lost\"}";

type Hold = Arc<Mutex<Option<oneshot::Sender<Vec<u8>>>>>;

async fn pass_on(mut client: UnixStream, hold: Hold, removal: Arc<Notify>, refuses_lists: Arc<AtomicBool>) {
    let mut engine = UnixStream::connect(ENGINE).await.unwrap();
    let (mut asked, mut answered) = (vec![0; 65_536], vec![0; 65_536]);
    let mut is_removal = false;
    loop {
        tokio::select! {
            Ok(length) = client.read(&mut asked) => {
                let request = &asked[..length];
                let line = String::from_utf8_lossy(&request[..length.min(80)]).into_owned();
                is_removal = line.starts_with("DELETE ");
                if line.starts_with("POST ") && line.contains("/containers/create") {
                    let hold = hold.lock().unwrap().take();
                    if let Some(hold) = hold {
                        let rest = body(request.to_vec(), &mut client).await;
                        hold.send(rest).unwrap();
                        return;
                    }
                }
                if line.contains("/containers/json") && refuses_lists.load(Ordering::SeqCst) {
                    let _ = client.write_all(REFUSAL).await;
                    return;
                }
                if length == 0 || engine.write_all(request).await.is_err() {
                    return;
                }
            }
            Ok(length) = engine.read(&mut answered) => {
                if length == 0 || client.write_all(&answered[..length]).await.is_err() {
                    return;
                }
                if is_removal {
                    removal.notify_one();
                }
            }
            else => return,
        }
    }
}

/// The whole request, as long as its head says.
async fn body(mut request: Vec<u8>, client: &mut UnixStream) -> Vec<u8> {
    loop {
        let text = String::from_utf8_lossy(&request).to_lowercase();
        let head = text.find("\r\n\r\n").map(|end| end + 4);
        let length = text.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.lines().next()?.parse::<usize>().ok());
        if head
            .zip(length)
            .is_some_and(|(head, length)| request.len() >= head + length)
        {
            return request;
        }
        assert!(client.read_buf(&mut request).await.unwrap() > 0, "{text}");
    }
}
