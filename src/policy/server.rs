//! The policy server: a Unix socket within Postfix's chroot, on a thread of its own.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::unistd::{Group, Uid, User};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};

use super::Board;
use super::protocol::Requests;
use crate::config::Policy;
use crate::limits::POLICY_CONNECTIONS_MAX;

/// Postfix closes a connection after 300 s without a request (`max_idle`); a peer that keeps one for longer is not Postfix.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);
/// An answer fits into the socket's buffer; a peer that does not read it keeps its connection from others for no longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const PIECE_BYTES: usize = 8 * 1024;

/// The running server; ends when dropped, and takes its socket along: Postfix then goes on at once.
pub struct Server {
    path: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// `None`: it is not wanted here, as the directory of its socket does not exist.
    pub fn start(config: &Policy, board: Arc<Board>) -> Result<Option<Server>, String> {
        if !config.enabled || !config.socket.parent().is_some_and(Path::is_dir) {
            return Ok(None);
        }
        let path = config.socket.clone();
        let listener = bind(config).map_err(|error| format!("cannot serve policy requests on {}: {error}", path.display()))?;
        let access = Access::of(&config.users);
        let text: Arc<str> = config.text.as_str().into();
        let (stop, stopped) = oneshot::channel();
        let serve = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(accept(listener, access, board, text, stopped)),
                Err(error) => log::error!("policy: cannot start the server: {error}"),
            }
        };
        let thread = std::thread::Builder::new().name("policy".into()).spawn(serve);
        let thread = thread.map_err(|error| format!("cannot start the policy thread: {error}"))?;
        Ok(Some(Server { path, stop: Some(stop), thread: Some(thread) }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Who may ask: root, the daemon itself, and the users that are named.
#[derive(Clone)]
struct Access(Arc<[u32]>);

impl Access {
    fn of(users: &[String]) -> Access {
        let named = users.iter().filter_map(|name| User::from_name(name).ok().flatten()).map(|user| user.uid.as_raw());
        Access(named.chain([0, Uid::effective().as_raw()]).collect())
    }
}

fn bind(config: &Policy) -> io::Result<std::os::unix::net::UnixListener> {
    let path = &config.socket;
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another program listens there"));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    if let Some(name) = &config.group {
        let group = Group::from_name(name).ok().flatten().ok_or_else(|| io::Error::other(format!("there is no group {name:?}")))?;
        // A directory with the setgid bit has done it already, and then this may not be allowed.
        let has_it = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(path)?) == group.gid.as_raw();
        if !has_it {
            nix::unistd::chown(path, None, Some(group.gid)).map_err(|error| {
                io::Error::other(format!(
                    "cannot give the socket to group {name:?}: {error}; give its directory to that group, with mode 2750"
                ))
            })?;
        }
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

async fn accept(
    listener: std::os::unix::net::UnixListener,
    access: Access,
    board: Arc<Board>,
    text: Arc<str>,
    mut stop: oneshot::Receiver<()>,
) {
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return log::error!("policy: cannot listen: {error}"),
    };
    let permits = Arc::new(Semaphore::new(POLICY_CONNECTIONS_MAX));
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors, say: wait a little rather than spin.
                Err(_) => { tokio::time::sleep(Duration::from_millis(100)).await; continue }
            },
            _ = &mut stop => return,
        };
        let is_allowed = stream.peer_cred().is_ok_and(|peer| access.0.contains(&peer.uid()));
        let Ok(permit) = permits.clone().try_acquire_owned() else { continue };
        if !is_allowed {
            // Closed without an answer, which Postfix takes for DUNNO; but Postfix it was not.
            log::debug!("policy: a connection of a user who may not ask was closed");
            continue;
        }
        let (board, text) = (board.clone(), text.clone());
        tokio::spawn(async move {
            // A client that goes away in the middle is its own affair.
            let _ = converse(stream, &board, &text).await;
            drop(permit);
        });
    }
}

async fn converse(mut stream: UnixStream, board: &Board, text: &str) -> io::Result<()> {
    let mut requests = Requests::default();
    let mut piece = [0; PIECE_BYTES];
    let mut out = Vec::new();
    loop {
        let count = match tokio::time::timeout(IDLE_TIMEOUT, stream.read(&mut piece)).await {
            Ok(Ok(0)) | Err(_) => return Ok(()),
            Ok(count) => count?,
        };
        requests.push(piece.get(..count).unwrap_or_default());
        out.clear();
        while let Some(taken) = requests.take() {
            board.answer(&taken).write(text, &mut out);
        }
        match tokio::time::timeout(ANSWER_TIMEOUT, stream.write_all(&out)).await {
            Ok(written) => written?,
            Err(_) => return Ok(()),
        }
    }
}
