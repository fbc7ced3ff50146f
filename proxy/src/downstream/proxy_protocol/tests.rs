use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A header of version 2 with this command, family, and block.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, block].concat()
}

fn whole(bytes: &[u8]) -> Option<IpAddr> {
    let header = parse(bytes).unwrap().unwrap_or_else(|| panic!("{bytes:?} isn't whole"));
    assert_eq!(header.length, bytes.len());
    header.source
}

#[test]
fn the_client_is_who_the_header_names() {
    let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x01, 0xbb];
    let v6 = [[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7].as_slice(), &[0; 16], &[0, 1, 0, 2]].concat();
    let tlvs = [4, 0, 3, 1, 2, 3];
    let named: [(Vec<u8>, &str); 6] = [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\n".to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 0 65535\r\n".to_vec(), "2001:db8::7"),
        (v2(PROXY, TCP_OVER_IPV4, &v4), "192.0.2.7"),
        (v2(PROXY, TCP_OVER_IPV4, &[&v4[..], &tlvs].concat()), "192.0.2.7"),
        (v2(PROXY, TCP_OVER_IPV6, &v6), "2001:db8::7"),
        (v2(PROXY, TCP_OVER_IPV6, &[&v6[..], &tlvs].concat()), "2001:db8::7"),
    ];
    for (bytes, source) in named {
        assert_eq!(whole(&bytes), Some(source.parse().unwrap()), "{bytes:?}");
    }
    let longest = "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(longest.len(), 104);
    assert!(whole(longest.as_bytes()).is_some());
}

#[test]
fn some_headers_leave_the_proxy_as_the_client() {
    for bytes in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ffff::1 whatever 1 2 3\r\n".to_vec(),
        v2(LOCAL, 0, &[]),
        v2(LOCAL, TCP_OVER_IPV4, &[1; 12]),
        v2(LOCAL, 0xff, &[1; 3]),
        v2(PROXY, 0, &[]),
        v2(PROXY, 0x12, &[1; 12]),
        v2(PROXY, 0x31, &[b'/'; 216]),
    ] {
        assert_eq!(whole(&bytes), None, "{bytes:?}");
    }
}

#[test]
fn what_breaks_the_rules_is_no_header() {
    let line = |text: &str| format!("{text}\r\n").into_bytes();
    let filler = "x".repeat(LINE_MAX - WORD.len() - "UNKNOWN ".len() - 1);
    for bytes in [
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"\x16\x03\x01".to_vec(),
        b"proxy TCP4".to_vec(),
        line("PROXY"),
        line("PROXY TCP4"),
        line("PROXY TCP5 1.2.3.4 1.2.3.4 1 2"),
        line("PROXY TCP4 1.2.3.4 1.2.3.4 1"),
        line("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3"),
        line("PROXY TCP4 1.2.3.4  1.2.3.4 1 2"),
        line("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 "),
        line("PROXY TCP4 1.2.3.4 1.2.3.4 +1 2"),
        line("PROXY TCP4 1.2.3.4 1.2.3.4 1 65536"),
        line("PROXY TCP4 1.2.3.256 1.2.3.4 1 2"),
        line("PROXY TCP4 ::1 1.2.3.4 1 2"),
        line("PROXY TCP6 1.2.3.4 ::1 1 2"),
        line("PROXY TCP6 fe80::1%eth0 ::1 1 2"),
        line("PROXY TCP4 1.2.3.4\n1.2.3.4 1 2"),
        line(&format!("PROXY UNKNOWN {filler}")),
        line("PROXY \u{fffd}"),
        v2(0x11, TCP_OVER_IPV4, &[1; 12]),
        v2(0x22, TCP_OVER_IPV4, &[1; 12]),
        v2(PROXY, TCP_OVER_IPV4, &[1; 11]),
        v2(PROXY, TCP_OVER_IPV6, &[1; 35]),
        v2(PROXY, TCP_OVER_IPV4, &[1; LENGTH_MAX - FIXED + 1]),
    ] {
        assert_eq!(parse(&bytes), Err(Malformed), "{:?}", String::from_utf8_lossy(&bytes));
    }
    assert!(parse(&v2(PROXY, TCP_OVER_IPV4, &[1; LENGTH_MAX - FIXED])).unwrap().is_some());
}

/// Any valid header.
fn header() -> impl Strategy<Value = Vec<u8>> {
    let v4 = any::<([u8; 4], [u8; 4], u16, u16)>().prop_map(|(source, destination, from, to)| {
        format!("PROXY TCP4 {} {} {from} {to}\r\n", Ipv4Addr::from(source), Ipv4Addr::from(destination)).into_bytes()
    });
    let v6 = any::<([u8; 16], [u8; 16], u16, u16)>().prop_map(|(source, destination, from, to)| {
        format!("PROXY TCP6 {} {} {from} {to}\r\n", Ipv6Addr::from(source), Ipv6Addr::from(destination)).into_bytes()
    });
    let binary = (any::<bool>(), any::<u8>(), vec(any::<u8>(), 36..600))
        .prop_map(|(local, family, block)| v2(if local { LOCAL } else { PROXY }, family, &block));
    prop_oneof![v4, v6, binary]
}

/// Anything, and what nearly is a header.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let bent = (header(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut bytes, at, byte)| {
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes
    });
    prop_oneof![vec(any::<u8>(), 0..300), bent, header()]
}

proptest! {
    #[test]
    fn a_header_is_read_when_its_last_byte_is_there(header in header(), behind in vec(any::<u8>(), 0..50)) {
        for length in 0..header.len() {
            prop_assert_eq!(parse(&header[..length]), Ok(None));
        }
        let found = parse(&header).unwrap().unwrap();
        prop_assert_eq!(found.length, header.len());
        prop_assert_eq!(parse(&[header, behind].concat()), Ok(Some(found)));
    }

    #[test]
    fn a_verdict_is_final(bytes in bytes()) {
        let verdicts: Vec<_> = (0..=bytes.len()).map(|length| (length, parse(&bytes[..length]))).collect();
        let first = verdicts.iter().find(|(_, verdict)| !matches!(verdict, Ok(None)));
        let Some((at, verdict)) = first else {
            prop_assert!(bytes.len() < LENGTH_MAX);
            return Ok(());
        };
        for (_, later) in verdicts.iter().skip(*at) {
            prop_assert_eq!(later, verdict);
        }
        if let Ok(Some(header)) = verdict {
            prop_assert_eq!(header.length, *at);
        }
    }
}
