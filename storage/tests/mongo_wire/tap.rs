//! A listener between a program and its MongoDB that writes down every command as it goes over the wire.
//!
//! It reads the protocol's messages (`OP_MSG`) itself, so what it tells is what the server is asked, whatever a driver
//! says that it does.

use std::sync::{Arc, Mutex};

use common::secret::Secret;
use common::tasks::Tasks;
use mongodb::bson::{Bson, Document, doc};
use storage::conformance::mongo_server::Database;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// The number of the only kind of message that is sent once a connection has said hello.
const OP_MSG: i32 = 2013;
/// What precedes a message's content: its length, two ids and its kind.
const HEADER: usize = 16;
/// The flag of a message that ends with its checksum.
const HAS_CHECKSUM: i32 = 1;
/// What a driver says for itself, at moments of its own.
const OF_THE_DRIVER: [&str; 8] = [
    "hello",
    "isMaster",
    "ismaster",
    "ping",
    "endSessions",
    "saslStart",
    "saslContinue",
    "buildInfo",
];

pub struct Tap {
    uri: String,
    sent: Arc<Mutex<Vec<Document>>>,
    tasks: Tasks,
}

impl Tap {
    /// In front of the server that takes the writes of this database.
    pub async fn before(database: &Database) -> Self {
        let uri = database.uri();
        let server = primary(&uri).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sent = Arc::new(Mutex::new(Vec::new()));
        let tasks = Tasks::new();
        let (family, stopping, written) = (tasks.clone(), tasks.stopping().clone(), Arc::clone(&sent));
        tasks.spawn("tap", async move {
            loop {
                let (program, _) = tokio::select! {
                    () = stopping.cancelled() => return,
                    accepted = listener.accept() => accepted.unwrap(),
                };
                family.spawn("tap-link", carry(program, server.clone(), Arc::clone(&written)));
            }
        });
        Self {
            uri: through(uri.expose(), &address.to_string()),
            sent,
            tasks,
        }
    }

    /// The database through this listener, with one more option.
    pub fn uri(&self, option: &str) -> Secret<String> {
        let more = if option.is_empty() { "" } else { "&" };
        Secret::new(format!("{}{more}{option}", self.uri))
    }

    /// What was sent since the last time, in order of arrival; without the driver's own.
    pub fn taken(&self) -> Vec<Document> {
        let sent = std::mem::take(&mut *self.sent.lock().unwrap());
        sent.into_iter()
            .filter(|command| !OF_THE_DRIVER.contains(&name(command)))
            .collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// What a command is called: its first field.
pub fn name(command: &Document) -> &str {
    command.keys().next().map_or("", String::as_str)
}

/// A command's name and the collection that it is about.
pub fn label(command: &Document) -> String {
    let collection = command.get_str(name(command)).unwrap_or_default();
    format!("{} {collection}", name(command))
}

async fn primary(uri: &Secret<String>) -> String {
    let client = mongodb::Client::with_uri_str(uri.expose()).await.unwrap();
    let hello = client.database("admin").run_command(doc! { "hello": 1 }).await;
    hello.unwrap().get_str("primary").unwrap().to_owned()
}

/// The same address, at another host, which is the only one that is spoken to.
fn through(uri: &str, host: &str) -> String {
    let rest = uri
        .strip_prefix("mongodb://")
        .expect("a tap reads plain connections");
    let (hosts, path) = rest.split_once('/').expect("the address names a database");
    let user = hosts.rsplit_once('@').map_or("", |(user, _)| user);
    let at = if user.is_empty() { "" } else { "@" };
    let option = if path.contains('?') { '&' } else { '?' };
    format!("mongodb://{user}{at}{host}/{path}{option}directConnection=true")
}

async fn carry(program: TcpStream, server: String, sent: Arc<Mutex<Vec<Document>>>) {
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let (mut from_program, mut to_program) = program.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let asked = async {
        let (mut piece, mut unread) = (vec![0; 64 * 1024], Vec::new());
        while let Ok(read @ 1..) = from_program.read(&mut piece).await {
            unread.extend_from_slice(&piece[..read]);
            // Written down before it is passed on: who has an answer finds the question here.
            while let Some(message) = next_message(&mut unread) {
                sent.lock().unwrap().extend(command_of(&message));
            }
            if to_server.write_all(&piece[..read]).await.is_err() {
                return;
            }
        }
        let _ = to_server.shutdown().await;
    };
    let answered = async {
        let _ = tokio::io::copy(&mut from_server, &mut to_program).await;
        let _ = to_program.shutdown().await;
    };
    tokio::join!(asked, answered);
}

/// Takes the first whole message away.
fn next_message(unread: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::try_from(number(unread.get(..4)?)).unwrap();
    assert!(length >= HEADER, "a message of {length} bytes");
    (unread.len() >= length).then(|| unread.drain(..length).collect())
}

/// None for the messages of older protocols, with which connections begin.
fn command_of(message: &[u8]) -> Option<Document> {
    if number(&message[12..HEADER]) != OP_MSG {
        return None;
    }
    let flags = number(&message[HEADER..HEADER + 4]);
    let end = message.len() - if flags & HAS_CHECKSUM == 0 { 0 } else { 4 };
    let mut rest = &message[HEADER + 4..end];
    let (mut command, mut sequences) = (Document::new(), Document::new());
    while let Some((kind, content)) = rest.split_first() {
        let (section, after) = content.split_at(usize::try_from(number(&content[..4])).unwrap());
        match kind {
            0 => command = Document::from_reader(section).unwrap(),
            1 => {
                let (field, documents) = sequence(&section[4..]);
                sequences.insert(field, documents);
            }
            other => panic!("a section of kind {other}"),
        }
        rest = after;
    }
    command.extend(sequences);
    Some(command)
}

/// Documents that stand beside the command instead of in it, and the name of their field.
fn sequence(section: &[u8]) -> (String, Vec<Bson>) {
    let zero = section.iter().position(|byte| *byte == 0).unwrap();
    let (field, mut rest) = (&section[..zero], &section[zero + 1..]);
    let mut documents = Vec::new();
    while !rest.is_empty() {
        documents.push(Bson::Document(Document::from_reader(&mut rest).unwrap()));
    }
    (String::from_utf8(field.to_vec()).unwrap(), documents)
}

fn number(bytes: &[u8]) -> i32 {
    i32::from_le_bytes(bytes.try_into().unwrap())
}
