//! A container's files in `/etc`, as container engines write them: the pod's names and addresses.

use std::net::Ipv4Addr;

/// Part of `/etc/hosts` if the kernel has IPv6: a pod's loopback has it then.
const HOSTS_IPV6: &str = "::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// Names and contents of the files, of a pod with this host name.
pub fn files(hostname: &str, address: Ipv4Addr, ipv6: bool, resolv_conf: &str) -> [(&'static str, String); 3] {
    let ipv6 = if ipv6 { HOSTS_IPV6 } else { "" };
    let hosts = format!("127.0.0.1\tlocalhost\n{ipv6}{address}\t{hostname}\n");
    [("hostname", format!("{hostname}\n")), ("hosts", hosts), ("resolv.conf", resolv_conf.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_finds_itself_by_its_name() {
        let [hostname, hosts, resolv_conf] = files("pod", Ipv4Addr::new(10, 0, 0, 2), false, "nameserver 10.0.0.1\n");
        assert_eq!(hostname, ("hostname", "pod\n".to_owned()));
        assert_eq!(hosts, ("hosts", "127.0.0.1\tlocalhost\n10.0.0.2\tpod\n".to_owned()));
        assert_eq!(resolv_conf, ("resolv.conf", "nameserver 10.0.0.1\n".to_owned()));
        assert!(files("pod", Ipv4Addr::LOCALHOST, true, "")[1].1.contains("::1\tlocalhost"));
    }
}
