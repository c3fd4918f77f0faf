//! The tool's end of the control socket.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Request, Response};

/// How long the tool waits for the daemon's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens: the daemon is not running.
    NotRunning(String),
    Failed(String),
}

impl Client {
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| explain(path, &error))?;
        let _ = stream.set_read_timeout(Some(ANSWER_TIMEOUT));
        let _ = stream.set_write_timeout(Some(ANSWER_TIMEOUT));
        Ok(Client { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    pub fn call(&mut self, request: &Request) -> Result<Response, ClientError> {
        self.send(request)?;
        self.receive()?.ok_or_else(|| ClientError::Failed("the daemon closed the connection without an answer; its log says why".into()))
    }

    /// A daemon that hangs up before it has read everything has said why: that is what is read next.
    pub fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut text = serde_json::to_vec(request).map_err(|error| ClientError::Failed(error.to_string()))?;
        text.push(b'\n');
        match self.stream.get_mut().write_all(&text) {
            Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Err(explain(&self.path, &error)),
            _ => Ok(()),
        }
    }

    /// The next answer; `None` when the daemon has closed the connection.
    pub fn receive(&mut self) -> Result<Option<Response>, ClientError> {
        let mut line = String::new();
        let count = self.stream.read_line(&mut line).map_err(|error| explain(&self.path, &error))?;
        if count == 0 {
            return Ok(None);
        }
        let response = serde_json::from_str(&line).map_err(|error| {
            ClientError::Failed(format!("the daemon's answer cannot be read ({error}); are tool and daemon of one version?"))
        })?;
        Ok(Some(response))
    }

    /// Waits for answers without a limit, as `monitor` does.
    pub fn wait_for_ever(&mut self) {
        let _ = self.stream.get_mut().set_read_timeout(None);
    }
}

fn explain(path: &Path, error: &std::io::Error) -> ClientError {
    let place = path.display();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => ClientError::NotRunning(format!(
            "the daemon is not running (nobody listens on {place}); start it with: systemctl start mailwardend"
        )),
        ErrorKind::PermissionDenied => ClientError::Failed(format!("no permission to use {place}; run as root or join the socket's group")),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            ClientError::Failed(format!("no answer on {place} within {} s; the daemon is busy or stopped", ANSWER_TIMEOUT.as_secs()))
        }
        _ => ClientError::Failed(format!("cannot talk to the daemon on {place}: {error}")),
    }
}
