//! The bandwidth limit of a pod's link: a token bucket at each of its two ends, for what is sent there. Excess packets are queued, which
//! slows the sender down; only packets that find the queue full are dropped.
//!
//! The pod's end is in the pod's own network namespace, whose settings no process of the pod may change (it has no CAP_NET_ADMIN). Pods at
//! a bridge have links that other programs create: for them, rows of the policy count bytes instead.

use std::io;

use codiusd_net::netlink::{Family, Message, Socket, attributes};
use nix::{libc, net::if_::if_nametoindex};

/// From linux/pkt_sched.h and linux/rtnetlink.h, where libc has none.
const ROOT: u32 = 0xffff_ffff;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BUCKET: &str = "tbf";
const PARAMETERS: u16 = 1;
const BURST: u16 = 6;
const LINK_LAYER_ETHERNET: u8 = 1;
/// Bytes of `struct tcmsg`.
const HEADER_BYTES: usize = 20;
/// Offset of the rate in `struct tc_ratespec`.
const RATE_AT: usize = 8;
/// Offset of the queue limit in `struct tc_tbf_qopt`, after two rates.
const QUEUE_AT: usize = 24;
/// Bytes of `struct tc_tbf_qopt`.
const PARAMETERS_BYTES: usize = 36;
/// Minimum burst: two of the largest packets the kernel hands over in one piece, however low the rate.
const BURST_BYTES_MIN: u32 = 128 << 10;
/// Burst as a fraction of a second's bytes: 10 ms.
const BURST_PARTS: u32 = 100;
/// Queue limit: 50 ms, but a few packets more than the burst.
const QUEUE_PARTS: u32 = 20;

/// Limits what is sent at this end of a link, in bytes a second; 0: unlimited. In the caller's network namespace.
pub(crate) fn cap(link: &str, bytes_per_second: u32) -> io::Result<()> {
    if bytes_per_second == 0 {
        return Ok(());
    }
    let header = header(if_nametoindex(link)?);
    let burst = burst(bytes_per_second);
    let bucket = Message::new(libc::RTM_NEWQDISC, libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE, &header)
        .text(KIND, BUCKET)
        .nest(OPTIONS, &[], |options| options.attr(PARAMETERS, &parameters(bytes_per_second)).attr(BURST, &burst.to_ne_bytes()));
    Socket::open(Family::Route)?.transact(vec![bucket]).map_err(|error| match error.raw_os_error() {
        Some(libc::ENOENT) => {
            io::Error::other("pods' bandwidth can't be capped: that takes the kernel's module sch_tbf (or pod_bandwidth = 0)")
        }
        _ => error,
    })
}

/// The limit at this end of a link, in bytes a second; none if there isn't one.
pub(super) fn capped(link: &str) -> io::Result<Option<u32>> {
    let index = if_nametoindex(link)?;
    let question = Message::new(libc::RTM_GETQDISC, libc::NLM_F_DUMP, &header(0));
    let all = Socket::open(Family::Route)?.ask(question)?;
    Ok(all.iter().filter(|found| found.get(4..8) == Some(&index.to_ne_bytes())).find_map(|found| rate(found.get(HEADER_BYTES..)?)))
}

/// The rate of a token bucket, if the attributes are a token bucket's.
fn rate(queue: &[u8]) -> Option<u32> {
    let value = |wanted: u16| attributes(queue).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    value(KIND)?.strip_suffix(&[0]).filter(|kind| *kind == BUCKET.as_bytes())?;
    let (_, parameters) = attributes(value(OPTIONS)?).find(|(kind, _)| *kind == PARAMETERS)?;
    parameters.get(RATE_AT..)?.first_chunk().map(|rate| u32::from_ne_bytes(*rate))
}

/// `struct tcmsg`: the root queue, which everything the link sends passes.
fn header(index: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[12..16].copy_from_slice(&ROOT.to_ne_bytes());
    header
}

/// `struct tc_tbf_qopt`: a rate, no peak rate, and the queue limit.
fn parameters(bytes_per_second: u32) -> [u8; PARAMETERS_BYTES] {
    let queue = (bytes_per_second / QUEUE_PARTS).saturating_add(burst(bytes_per_second));
    let mut parameters = [0; PARAMETERS_BYTES];
    parameters[1] = LINK_LAYER_ETHERNET;
    parameters[RATE_AT..RATE_AT + 4].copy_from_slice(&bytes_per_second.to_ne_bytes());
    parameters[QUEUE_AT..QUEUE_AT + 4].copy_from_slice(&queue.to_ne_bytes());
    parameters
}

fn burst(bytes_per_second: u32) -> u32 {
    (bytes_per_second / BURST_PARTS).max(BURST_BYTES_MIN)
}
