//! Just enough SMTP and IMAP to be a customer, a guesser or a spammer.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::network::Client;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(1500);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// An open connection; lines out, lines in.
pub struct Dialog {
    stream: BufReader<TcpStream>,
}

impl Dialog {
    pub fn open(client: &Client, server: IpAddr, port: u16) -> io::Result<Self> {
        let stream = client.namespace.within(|| TcpStream::connect_timeout(&SocketAddr::new(server, port), CONNECT_TIMEOUT))?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub fn smtp(client: &Client, server: IpAddr, port: u16) -> io::Result<Self> {
        let mut dialog = Self::open(client, server, port)?;
        expect(dialog.smtp_reply()?, 220)?;
        expect(dialog.command("EHLO client.example")?, 250)?;
        Ok(dialog)
    }

    pub fn imap(client: &Client, server: IpAddr) -> io::Result<Self> {
        let mut dialog = Self::open(client, server, 143)?;
        dialog.line()?;
        Ok(dialog)
    }

    /// The code of the answer to one SMTP command.
    pub fn command(&mut self, command: &str) -> io::Result<u16> {
        self.send(command)?;
        self.smtp_reply()
    }

    /// Whether SMTP takes the password.
    pub fn smtp_login(&mut self, account: &str, password: &str) -> io::Result<bool> {
        let credentials = base64(format!("\0{account}\0{password}").as_bytes());
        Ok(self.command(&format!("AUTH PLAIN {credentials}"))? == 235)
    }

    /// Whether IMAP takes the password.
    pub fn imap_login(&mut self, account: &str, password: &str) -> io::Result<bool> {
        self.send(&format!("a LOGIN \"{account}\" \"{password}\""))?;
        loop {
            let line = self.line()?;
            if let Some(answer) = line.strip_prefix("a ") {
                return Ok(answer.starts_with("OK"));
            }
        }
    }

    /// Whether POP3 takes the password.
    pub fn pop_login(client: &Client, server: IpAddr, account: &str, password: &str) -> io::Result<bool> {
        let mut dialog = Self::open(client, server, 110)?;
        dialog.line()?;
        dialog.send(&format!("USER {account}"))?;
        dialog.line()?;
        dialog.send(&format!("PASS {password}"))?;
        Ok(dialog.line()?.starts_with("+OK"))
    }

    /// Sends one mail in the session that is open.
    pub fn mail(&mut self, from: &str, to: &str) -> io::Result<()> {
        expect(self.command(&format!("MAIL FROM:<{from}>"))?, 250)?;
        expect(self.command(&format!("RCPT TO:<{to}>"))?, 250)?;
        expect(self.command("DATA")?, 354)?;
        expect(self.command("Subject: test\r\n\r\nHello.\r\n.")?, 250)
    }

    /// Whether a line sent now is answered by anything at all.
    pub fn is_dead(&mut self) -> bool {
        let answer = self.stream.get_ref().set_read_timeout(Some(CONNECT_TIMEOUT));
        answer.and_then(|()| self.send("NOOP")).and_then(|()| self.line()).is_err()
    }

    fn send(&mut self, line: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{line}\r\n").as_bytes())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }

    fn smtp_reply(&mut self) -> io::Result<u16> {
        loop {
            let line = self.line()?;
            if line.as_bytes().get(3) == Some(&b' ') {
                return line[..3].parse().map_err(|_| io::Error::other(line.clone()));
            }
        }
    }
}

fn expect(got: u16, wanted: u16) -> io::Result<()> {
    if got == wanted { Ok(()) } else { Err(io::Error::other(format!("answer {got} instead of {wanted}"))) }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |group: u32, place: usize| char::from(DIGITS[(group >> (18 - 6 * place)) as usize & 63]);
    bytes
        .chunks(3)
        .flat_map(|chunk| {
            let group = (0..3).fold(0, |group, at| group << 8 | u32::from(*chunk.get(at).unwrap_or(&0)));
            (0..4).map(move |place| if place <= chunk.len() { digit(group, place) } else { '=' })
        })
        .collect()
}
