//! Network namespaces, and threads that step into one. A socket keeps the namespace in which it was opened, and so does a
//! process that was started there.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::resume_unwind;
use std::thread;

use nix::sched::{CloneFlags, setns};

use crate::isolation::run;

/// Where the world finds the mail host.
pub const MAIL_HOST: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 25)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x25, 0, 0, 0, 0, 0x25))];

pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    pub fn new(name: &str) -> Self {
        run("ip", &["netns", "add", name]);
        let handle = File::open(format!("/run/netns/{name}")).unwrap();
        let namespace = Self { name: name.into(), handle };
        namespace.ip("link set lo up");
        namespace
    }

    /// Does `work` in this namespace: what it connects, binds or starts belongs there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(&self.handle, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            worker.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    pub fn ip(&self, arguments: &str) {
        let arguments: Vec<&str> = ["-netns", &self.name].into_iter().chain(arguments.split_whitespace()).collect();
        run("ip", &arguments);
    }

    pub fn nft(&self, rules: &str) {
        self.within(|| run("nft", &[rules]));
    }

    pub fn sysctl(&self, key: &str, value: &str) {
        self.within(|| std::fs::write(format!("/proc/sys/{key}"), value).unwrap());
    }

    /// A cable from our `near` to `eth0` of `other`.
    fn connect(&self, near: &str, other: &Self) {
        self.ip(&format!("link add {near} type veth peer name eth0 netns {}", other.name));
        self.ip(&format!("link set {near} up"));
        other.ip("link set eth0 up");
    }
}

/// The mail host: its addresses are on the loopback device, so that each client can have a cable of its own.
pub fn mail_host() -> Namespace {
    let host = Namespace::new("mailhost");
    let [v4, v6] = MAIL_HOST;
    host.ip(&format!("addr add {v4}/32 dev lo"));
    host.ip(&format!("-6 addr add {v6}/128 dev lo nodad"));
    host
}

/// A container behind the mail host, which forwards the mail ports to it as a container engine does. Submission has
/// another port inside, as with images that run without root.
pub fn container(host: &Namespace) -> Namespace {
    let container = Namespace::new("container");
    host.connect("docker0", &container);
    host.ip("addr add 172.18.0.1/24 dev docker0");
    host.ip("-6 addr add fd00:18::1/64 dev docker0 nodad");
    container.ip("addr add 172.18.0.2/24 dev eth0");
    container.ip("-6 addr add fd00:18::2/64 dev eth0 nodad");
    container.ip("route add default via 172.18.0.1");
    container.ip("-6 route add default via fd00:18::1");
    host.sysctl("net/ipv4/ip_forward", "1");
    host.sysctl("net/ipv6/conf/all/forwarding", "1");
    let [v4, v6] = MAIL_HOST;
    host.nft(&format!(
        "table inet engine {{ chain prerouting {{
            type nat hook prerouting priority dstnat
            ip daddr {v4} tcp dport 587 dnat ip to 172.18.0.2:10587
            ip daddr {v4} tcp dport {{ 25, 110, 143 }} dnat ip to 172.18.0.2
            ip6 daddr {v6} tcp dport 587 dnat ip6 to [fd00:18::2]:10587
            ip6 daddr {v6} tcp dport {{ 25, 110, 143 }} dnat ip6 to fd00:18::2
        }}
        }}"
    ));
    container
}

/// A machine somewhere out there, with an address of either family.
pub struct Client {
    pub namespace: Namespace,
    pub v4: IpAddr,
    pub v6: IpAddr,
}

impl Client {
    pub fn new(host: &Namespace, name: &str, number: u8) -> Self {
        Self::at(host, name, Ipv4Addr::new(198, 51, 100, number), 0xc00 + u16::from(number))
    }

    /// One somewhere else; `site` is the last part of the /48 of its IPv6 address.
    pub fn at(host: &Namespace, name: &str, v4: Ipv4Addr, site: u16) -> Self {
        let namespace = Namespace::new(name);
        let v4 = IpAddr::from(v4);
        let v6 = IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, site, 0, 0, 0, 0, 1));
        host.connect(name, &namespace);
        host.ip(&format!("-6 addr add fe80::1/64 dev {name} nodad"));
        host.ip(&format!("route add {v4}/32 dev {name}"));
        host.ip(&format!("-6 route add {v6}/64 dev {name}"));
        namespace.ip(&format!("addr add {v4}/32 dev eth0"));
        namespace.ip(&format!("-6 addr add {v6}/64 dev eth0 nodad"));
        namespace.ip("route add default dev eth0");
        namespace.ip("-6 route add default via fe80::1 dev eth0");
        Self { namespace, v4, v6 }
    }
}
