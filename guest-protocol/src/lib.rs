//! The protocol between a pod's shim on the host and the first process of the pod's virtual machine.
//!
//! Two byte streams connect them, each a port of one virtio-serial device:
//!
//! | port | content |
//! |---|---|
//! | [`CONTROL_PORT`] | both ways: messages, each a [`frame`] of JSON |
//! | [`OUTPUT_PORT`] | from the guest: what containers write, as [`output`] pieces |
//!
//! ```text
//! shim                             guest
//!  |<------------ Hello -------------| devices are there
//!  |------------- Order ------------>| network, disk, images; containers created, each waits before its program
//!  |<------------ Created -----------| or Failed
//!  |------------- Go --------------->| programs executed
//!  |<------------ Started -----------| or Failed
//!  |-- Ping, Clock --------> <- Pong-| while the pod runs
//!  |<------------ Exited ------------| one for each container
//!  |------------- Stop ------------->| SIGTERM to every first process, SIGKILL after the grace
//!  |<------------ Done --------------| all containers have exited and their output is sent; the guest powers off
//! ```
//!
//! Everything that comes from the guest is hostile: lengths are limited, containers are named by index, and a message out of turn ends
//! the pod.

pub mod frame;
pub mod output;

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Version of the protocol, in [`FromGuest::Hello`]: shim and guest are built together, so any other version is an error.
pub const VERSION: u32 = 1;
/// Name of the virtio-serial port for messages.
pub const CONTROL_PORT: &str = "codius.control";
/// Name of the virtio-serial port for the containers' output.
pub const OUTPUT_PORT: &str = "codius.output";
/// Serial number of the block device that holds the pod's disk (ext4).
pub const DISK_SERIAL: &str = "disk";
/// Longest message to the guest, in bytes: the environments of a manifest are part of the order.
pub const TO_GUEST_BYTES_MAX: usize = 4 << 20;
/// Longest message from the guest, in bytes.
pub const FROM_GUEST_BYTES_MAX: usize = 64 << 10;

/// Serial number of the block device of an image (erofs); at most 20 characters, the limit of virtio-blk.
pub fn image_serial(index: usize) -> String {
    format!("image{index}")
}

/// A message to the guest. Holds private values.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(missing_debug_implementations, reason = "private values must not reach a log")]
pub enum ToGuest {
    /// What to run; the first message.
    Order(Box<Order>),
    /// Execute the containers' programs.
    Go,
    /// End the pod.
    Stop {
        /// Milliseconds between SIGTERM and SIGKILL.
        grace_ms: u64,
    },
    /// Answer with [`FromGuest::Pong`].
    Ping,
    /// Set the clock.
    Clock {
        /// Nanoseconds since the Unix epoch.
        unix_ns: u64,
    },
}

/// A message from the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromGuest {
    /// The guest is ready for its order; the first message.
    Hello {
        /// [`VERSION`].
        version: u32,
    },
    /// Every container waits before the execution of its program.
    Created,
    /// Every program has been executed.
    Started,
    /// The pod could not be started; the last message.
    Failed {
        /// The container it is about.
        container: Option<u16>,
        /// The image or the manifest is at fault, not the host.
        uploader: bool,
        /// The failed step, worded for the uploader.
        step: String,
        /// The full cause, for the log.
        cause: String,
    },
    /// A container's first process has exited.
    Exited {
        /// The container's index in the order.
        container: u16,
        /// How.
        exit: Exit,
        /// The kernel of the guest killed a process of the container for want of memory.
        out_of_memory: bool,
    },
    /// The answer to a ping.
    Pong,
    /// All containers have exited, and their output has been sent; the last message.
    Done,
}

/// How a process exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// By itself, with this status.
    Code(u8),
    /// By this signal.
    Signal(u8),
}

/// What a guest runs. Holds private values.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_debug_implementations, reason = "private values must not reach a log")]
pub struct Order {
    /// The pod's host name.
    pub hostname: String,
    /// Its network.
    pub network: Network,
    /// Content of the containers' `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Nanoseconds since the Unix epoch, for the guest's clock.
    pub unix_ns: u64,
    /// Limits.
    pub bounds: Bounds,
    /// Containers can't write to their root file systems.
    pub read_only: bool,
    /// Programs of the system call filter, applied in order; each `u64` is a `struct sock_filter` (little endian: code, jt, jf, k).
    pub seccomp: Vec<Vec<u64>>,
    /// The containers; none: the guest answers `Created` after checking its devices (the host's self-check).
    pub containers: Vec<Container>,
}

/// The guest's network: one link, `eth0`, and an on-link default route.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The pod's address, a /32.
    pub address: Ipv4Addr,
    /// The host's address.
    pub gateway: Ipv4Addr,
}

/// Limits that the guest enforces.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// Processes and threads of all containers together.
    pub pids: u32,
    /// Open files per process.
    pub open_files: u64,
    /// Size of each container's `/dev/shm`, in bytes.
    pub shm_bytes: u64,
    /// Size of the tmpfs for what containers write, in bytes; none: they write to the disk.
    pub scratch_memory_bytes: Option<u64>,
    /// Memory of the containers, in bytes; the rest is the guest's own.
    pub memory_bytes: u64,
}

/// One container, image configuration and manifest merged.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_debug_implementations, reason = "private values must not reach a log")]
pub struct Container {
    /// Its name inside the pod.
    pub name: String,
    /// Which image device it uses, by [`image_serial`].
    pub image: u16,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// `NAME=value`, names unique.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// `user[:group]`, to be looked up in the image; empty is root.
    pub user: String,
    /// Directories that must exist.
    pub volumes: Vec<String>,
}
