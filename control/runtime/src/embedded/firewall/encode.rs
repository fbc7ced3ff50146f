//! From the description to nf_tables messages (linux/netfilter/nf_tables.h).

use std::io;

use nix::{libc, sys::socket::SockProtocol};

use super::super::netlink::{Message, Socket};
use super::{Chain, Hook, Match, Rule, Subnet, Table, Verdict};

const NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const FAMILY_UNSPECIFIED: u8 = 0;
const FAMILY_INET: u8 = 1;
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;
const CMP_EQUAL: u32 = 0;
const CMP_UNEQUAL: u32 = 1;
const META_INPUT_NAME: u32 = 6;
const META_OUTPUT_NAME: u32 = 7;
const META_FAMILY: u32 = 15;
const NETWORK_HEADER: u32 = 1;
const IPV4_SOURCE: u32 = 12;
const IPV4_DESTINATION: u32 = 16;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const CT_STATE: u32 = 0;
/// Established and related.
const CT_KNOWN: u32 = 0b110;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;

/// Sends one batch: the table made sure of, deleted with all it holds, and built anew. The kernel takes all of it or nothing.
pub(super) fn install(table: &Table) -> io::Result<()> {
    let mut batch = gone(&table.name);
    batch.push(named(libc::NFT_MSG_NEWTABLE, &table.name));
    for chain in &table.chains {
        batch.push(new_chain(&table.name, chain));
        batch.extend(chain.rules.iter().map(|rule| new_rule(&table.name, chain.name, rule)));
    }
    send(batch)
}

/// Deletes the table with all it holds, if there is one.
pub(super) fn remove(table: &str) -> io::Result<()> {
    send(gone(table))
}

/// The begin of a batch after which there is no such table: deleting one that isn't there would be an error.
fn gone(table: &str) -> Vec<Message> {
    vec![edge(BATCH_BEGIN), named(libc::NFT_MSG_NEWTABLE, table), named(libc::NFT_MSG_DELTABLE, table)]
}

fn send(mut batch: Vec<Message>) -> io::Result<()> {
    batch.push(edge(BATCH_END));
    Socket::open(SockProtocol::NetlinkNetFilter)?.transact(batch)
}

/// `struct nfgenmsg` of a batch's begin and end, which name the subsystem.
fn edge(kind: u16) -> Message {
    let subsystem = NFTABLES.to_be_bytes();
    Message::new(kind, 0, &[FAMILY_UNSPECIFIED, 0, subsystem[0], subsystem[1]])
}

fn message(kind: i32) -> Message {
    let kind = (NFTABLES << 8) | u16::try_from(kind).unwrap_or_default();
    Message::new(kind, libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_APPEND, &[FAMILY_INET, 0, 0, 0])
}

fn named(kind: i32, table: &str) -> Message {
    message(kind).text(1, table)
}

fn new_chain(table: &str, chain: &Chain) -> Message {
    let (kind, hook, priority) = match chain.hook {
        Hook::Input => ("filter", 1, 0),
        Hook::Forward => ("filter", 2, 0),
        Hook::Postrouting => ("nat", 4, 100),
    };
    message(libc::NFT_MSG_NEWCHAIN)
        .text(1, table)
        .text(3, chain.name)
        .nest(4, &[], |place| place.be32(1, hook).be32(2, priority))
        .be32(5, 1) // policy accept
        .text(7, kind)
}

fn new_rule(table: &str, chain: &str, rule: &Rule) -> Message {
    message(libc::NFT_MSG_NEWRULE).text(1, table).text(2, chain).nest(4, &[], |list| {
        let list = rule.matches.iter().fold(list, add_match);
        add_verdict(list, rule.verdict)
    })
}

fn expression(list: Message, name: &str, fill: impl FnOnce(Message) -> Message) -> Message {
    list.nest(1, &[], |element| element.text(1, name).nest(2, &[], fill))
}

fn add_match(list: Message, condition: &Match) -> Message {
    match condition {
        Match::From(prefix) => compare(meta(list, META_INPUT_NAME), CMP_EQUAL, prefix.as_bytes()),
        Match::To(prefix) => compare(meta(list, META_OUTPUT_NAME), CMP_EQUAL, prefix.as_bytes()),
        Match::ToOther(prefix) => compare(meta(list, META_OUTPUT_NAME), CMP_UNEQUAL, prefix.as_bytes()),
        Match::Established => {
            let state = expression(list, "ct", |ct| ct.be32(1, REGISTER).be32(2, CT_STATE));
            compare(mask(state, CT_KNOWN.to_ne_bytes()), CMP_UNEQUAL, &[0; 4])
        }
        Match::Destination(subnet) => in_subnet(list, IPV4_DESTINATION, *subnet),
        Match::Source(subnet) => in_subnet(list, IPV4_SOURCE, *subnet),
        Match::Ipv6 => compare(meta(list, META_FAMILY), CMP_EQUAL, &[NFPROTO_IPV6]),
    }
}

fn meta(list: Message, key: u32) -> Message {
    expression(list, "meta", |meta| meta.be32(1, REGISTER).be32(2, key))
}

fn compare(list: Message, operator: u32, with: &[u8]) -> Message {
    expression(list, "cmp", |cmp| cmp.be32(1, REGISTER).be32(2, operator).nest(3, &[], |data| data.attr(DATA_VALUE, with)))
}

fn mask(list: Message, mask: [u8; 4]) -> Message {
    expression(list, "bitwise", |bits| {
        bits.be32(1, REGISTER)
            .be32(2, REGISTER)
            .be32(3, 4)
            .nest(4, &[], |data| data.attr(DATA_VALUE, &mask))
            .nest(5, &[], |data| data.attr(DATA_VALUE, &[0; 4]))
    })
}

fn in_subnet(list: Message, offset: u32, subnet: Subnet) -> Message {
    let ipv4 = compare(meta(list, META_FAMILY), CMP_EQUAL, &[NFPROTO_IPV4]);
    let loaded = expression(ipv4, "payload", |load| load.be32(1, REGISTER).be32(2, NETWORK_HEADER).be32(3, offset).be32(4, 4));
    compare(mask(loaded, subnet.mask().to_be_bytes()), CMP_EQUAL, &subnet.address(0).octets())
}

fn add_verdict(list: Message, verdict: Verdict) -> Message {
    let immediate = |code| {
        move |data: Message| {
            data.be32(1, VERDICT_REGISTER).nest(2, &[], |value| value.nest(DATA_VERDICT, &[], |verdict| verdict.be32(VERDICT_CODE, code)))
        }
    };
    match verdict {
        Verdict::Accept => expression(list, "immediate", immediate(1)),
        Verdict::Drop => expression(list, "immediate", immediate(0)),
        Verdict::Masquerade => expression(list, "masq", |nothing| nothing),
    }
}
