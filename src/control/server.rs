//! The daemon's end of the control socket: checks who asks, hands requests to the core, streams decisions to monitors.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, oneshot};

use super::{Code, Request, Response};
use crate::limits::{CONTROL_CONNECTIONS_MAX, CONTROL_REQUEST_BYTES_MAX};

/// A client that sends nothing for so long is cut off.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Where requests go: the core's end answers by the channel.
pub trait Core: Send + Sync + 'static {
    fn submit(&self, request: Request) -> oneshot::Receiver<Response>;
    /// Decisions as JSON, one a message.
    fn subscribe(&self) -> broadcast::Receiver<Arc<str>>;
}

/// Who may use the socket: root, the daemon's own user, and the members of one group.
#[derive(Clone, Debug)]
pub struct Access {
    pub group: Option<Gid>,
}

impl Access {
    pub fn allows(&self, uid: Uid, gid: Gid) -> bool {
        if uid.is_root() || uid == Uid::effective() {
            return true;
        }
        let Some(group) = self.group else { return false };
        gid == group || is_member(uid, gid, group)
    }
}

fn is_member(uid: Uid, gid: Gid, group: Gid) -> bool {
    let Ok(Some(user)) = User::from_uid(uid) else { return false };
    let Ok(name) = std::ffi::CString::new(user.name) else { return false };
    getgrouplist(&name, gid).is_ok_and(|groups| groups.contains(&group))
}

/// Binds the socket; a stale one is replaced, a live one is an error.
pub fn bind(path: &Path, group: Option<&str>) -> io::Result<(UnixListener, Access)> {
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let text = format!("{} is in use: another mailwardend listens there; stop it first", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(path, "remove the stale socket", &error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|error| at(path, "bind the control socket", &error))?;
    let gid = group.and_then(|name| Group::from_name(name).ok().flatten()).map(|group| group.gid);
    let given = gid.map(|gid| nix::unistd::chown(path, None, Some(gid)));
    if let (Some(name), None | Some(Err(_))) = (group, given) {
        let why = if gid.is_some() { "the daemon's user is no member of it" } else { "there is no such group" };
        log::warn!("only root may use {}: it cannot be given to the group {name:?} of [control], {why}", path.display());
    }
    let mode = if matches!(given, Some(Ok(()))) { 0o660 } else { 0o600 };
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
    Ok((listener, Access { group: gid }))
}

fn at(path: &Path, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {what} {}: {error}", path.display()))
}

/// Accepts until `stop` resolves; removes the socket's path at the end.
pub async fn serve(listener: UnixListener, path: PathBuf, access: Access, core: Arc<dyn Core>, mut stop: oneshot::Receiver<()>) {
    let permits = Arc::new(Semaphore::new(CONTROL_CONNECTIONS_MAX));
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors, say: wait a little rather than spin.
                Err(_) => { tokio::time::sleep(Duration::from_millis(100)).await; continue }
            },
            _ = &mut stop => break,
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            turn_away(stream);
            continue;
        };
        let (access, core) = (access.clone(), core.clone());
        tokio::spawn(async move {
            // A client that goes away in the middle of its answer is its own affair.
            let _ = converse(stream, &access, &*core).await;
            drop(permit);
        });
    }
    let _ = std::fs::remove_file(path);
}

/// One line, which a new connection always has room for: nobody waits here.
fn turn_away(stream: UnixStream) {
    let text = format!("{CONTROL_CONNECTIONS_MAX} connections are open, as many as there may be; try again when one has ended");
    let Ok(mut line) = serde_json::to_vec(&Response::error(Code::Failed, text)) else { return };
    line.push(b'\n');
    // A client that has gone already is its own affair.
    let _ = stream.into_std().and_then(|mut stream| io::Write::write_all(&mut stream, &line));
}

async fn converse(stream: UnixStream, access: &Access, core: &dyn Core) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let (reader, mut writer) = stream.into_split();
    if !access.allows(Uid::from_raw(peer.uid()), Gid::from_raw(peer.gid())) {
        let text = format!("uid {} may not control mailwarden; run as root or join the socket's group", peer.uid());
        return write(&mut writer, &Response::error(Code::Forbidden, text)).await;
    }
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut reader).take(CONTROL_REQUEST_BYTES_MAX as u64);
        match tokio::time::timeout(IDLE_TIMEOUT, limited.read_until(b'\n', &mut line)).await {
            Ok(Ok(0)) | Err(_) => return Ok(()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
        }
        if line.last() != Some(&b'\n') {
            return write(
                &mut writer,
                &Response::error(Code::BadRequest, format!("a request is one line of at most {CONTROL_REQUEST_BYTES_MAX} bytes")),
            )
            .await;
        }
        match serde_json::from_slice::<Request>(&line) {
            Ok(Request::Monitor) => return stream_decisions(reader, &mut writer, core.subscribe()).await,
            Ok(request) => {
                let answer = core.submit(request).await.unwrap_or_else(|_| Response::error(Code::Failed, "the daemon is stopping"));
                write(&mut writer, &answer).await?;
            }
            Err(error) => write(&mut writer, &Response::error(Code::BadRequest, format!("not a request: {error}"))).await?,
        }
    }
}

async fn stream_decisions(
    mut reader: BufReader<tokio::net::unix::OwnedReadHalf>,
    writer: &mut tokio::net::unix::OwnedWriteHalf,
    mut decisions: broadcast::Receiver<Arc<str>>,
) -> io::Result<()> {
    write(writer, &Response::ok("monitoring")).await?;
    let mut byte = [0u8; 1];
    loop {
        let response = tokio::select! {
            decision = decisions.recv() => match decision {
                Ok(text) => Response { code: Code::Ok, message: String::new(), data: serde_json::from_str(&text).unwrap_or_default() },
                Err(broadcast::error::RecvError::Lagged(count)) => Response::ok(format!("{count} decisions left out: this reader is too slow")),
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            gone = reader.read(&mut byte) => { gone?; return Ok(()) }
        };
        write(writer, &response).await?;
    }
}

async fn write(writer: &mut tokio::net::unix::OwnedWriteHalf, response: &Response) -> io::Result<()> {
    let mut text = serde_json::to_vec(response).map_err(io::Error::other)?;
    text.push(b'\n');
    writer.write_all(&text).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_self_and_the_group_may_ask() {
        let access = Access { group: Some(Gid::from_raw(4242)) };
        assert!(access.allows(Uid::from_raw(0), Gid::from_raw(0)));
        assert!(access.allows(Uid::effective(), Gid::from_raw(77)));
        assert!(access.allows(Uid::from_raw(65534), Gid::from_raw(4242)));
        assert!(!access.allows(Uid::from_raw(65534), Gid::from_raw(65534)));
        assert!(!Access { group: None }.allows(Uid::from_raw(65534), Gid::from_raw(4242)));
    }
}
