//! Tests in a network namespace of their own: the test binary runs itself again under `unshare -rn`, as root or not.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

/// How long a packet that must pass may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a packet that must not pass is waited for.
const BLOCKED: Duration = Duration::from_millis(120);

/// Runs `body` inside a new user and network namespace. `name` is the test's own.
pub fn inside(name: &str, body: impl FnOnce()) {
    if std::env::var("MAILWARDEN_IN_NETNS").as_deref() == Ok(name) {
        run("ip link set lo up");
        return body();
    }
    let possible = Command::new("unshare").args(["-rn", "ip", "link", "set", "lo", "up"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("MAILWARDEN_REQUIRE_NETNS").is_none(), "no network namespace can be made here");
        println!("SKIPPED {name}: no network namespace can be made here");
        return;
    }
    let exe = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.arg("-rn").arg(exe).args([name, "--exact", "--nocapture", "--include-ignored"]).env("MAILWARDEN_IN_NETNS", name);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    print!("{text}");
    assert!(output.status.success(), "{name} failed in its namespace");
    assert!(text.contains("1 passed"), "{name} is not this test's name");
}

/// A command that must succeed; what it printed.
#[track_caller]
pub fn run(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

type Job = Box<dyn FnOnce() + Send>;

/// Another host: a thread in a namespace of its own at the end of a cable. The n-th has 10.n.0.2/24 and fd00:n::2/64, this
/// side 10.n.0.1 and fd00:n::1.
#[derive(Clone)]
pub struct Host {
    jobs: mpsc::Sender<Job>,
    pub number: u8,
}

impl Host {
    pub fn new(number: u8) -> Host {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            send.send(nix::unistd::gettid()).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        let tid = receive.recv().unwrap();
        let host = Host { jobs, number };
        run(&format!(
            "ip link add c{number} type veth peer name eth0 netns {tid} && ip addr add 10.{number}.0.1/24 dev c{number} && \
             ip addr add fd00:{number}::1/64 dev c{number} nodad && ip link set c{number} up"
        ));
        host.sh(&format!(
            "ip link set lo up && ip link set eth0 up && ip addr add 10.{number}.0.2/24 dev eth0 && \
             ip addr add fd00:{number}::2/64 dev eth0 nodad && ip route add default via 10.{number}.0.1 && \
             ip -6 route add default via fd00:{number}::1"
        ));
        host
    }

    /// Runs in the host's namespace.
    pub fn does<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, receive) = mpsc::channel();
        self.jobs.send(Box::new(move || send.send(job()).unwrap())).unwrap();
        receive.recv().expect("the job did not panic")
    }
    pub fn sh(&self, line: &str) {
        let line = line.to_owned();
        self.does(move || run(&line));
    }
    pub fn v4(&self) -> IpAddr {
        format!("10.{}.0.2", self.number).parse().unwrap()
    }
    pub fn v6(&self) -> IpAddr {
        format!("fd00:{}::2", self.number).parse().unwrap()
    }
    /// Our address on its cable.
    pub fn server(&self, ipv6: bool, port: u16) -> SocketAddr {
        let ip: IpAddr = if ipv6 { format!("fd00:{}::1", self.number) } else { format!("10.{}.0.1", self.number) }.parse().unwrap();
        SocketAddr::new(ip, port)
    }

    pub fn connect(&self, to: SocketAddr) -> TcpStream {
        self.does(move || TcpStream::connect_timeout(&to, PATIENCE)).unwrap()
    }
    /// A new connection is answered.
    #[track_caller]
    pub fn reaches(&self, to: SocketAddr) {
        let answered = self.does(move || TcpStream::connect_timeout(&to, PATIENCE).map(|stream| echoes(&stream, PATIENCE)));
        assert!(matches!(answered, Ok(true)), "{to} is not reached: {answered:?}");
    }
    /// A new connection is not answered at all.
    #[track_caller]
    pub fn is_cut_off(&self, to: SocketAddr) {
        let error = self.does(move || TcpStream::connect_timeout(&to, BLOCKED)).expect_err("connected");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    }
    /// A new connection is refused at once.
    #[track_caller]
    pub fn is_refused(&self, to: SocketAddr) {
        let error = self.does(move || TcpStream::connect_timeout(&to, PATIENCE)).expect_err("connected");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
    }
}

/// The other end says the same thing back.
pub fn echoes(mut stream: &TcpStream, patience: Duration) -> bool {
    let mut answer = [0];
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(b"x").is_ok() && matches!(stream.read(&mut answer), Ok(1))
}

#[track_caller]
pub fn alive(stream: &TcpStream) {
    assert!(echoes(stream, PATIENCE), "the connection is dead");
}

#[track_caller]
pub fn dead(stream: &TcpStream) {
    assert!(!echoes(stream, BLOCKED), "the connection is alive");
}

/// Echoes on each of the ports in this thread's namespace, IPv4 and IPv6.
pub fn serve(ports: &[u16]) {
    for port in ports {
        let listener = TcpListener::bind(("::", *port)).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
    }
}
