"""The proxies that are measured side by side: how each is started on one core, with the same routes and the same forwarded fields."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROXY_CORE, LOAD_CORE = "0", "1"
TICKS = os.sysconf("SC_CLK_TCK")
DEADLINE = 30


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def await_port(port, process):
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until and process.child.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"{process.name} doesn't listen on port {port}:\n{Path(process.log.name).read_text()}")


def hosts(count):
    """As the edge names pod number 0, 1, ...: base32 of 32 bytes."""
    import base64

    digests = (number.to_bytes(8, "big") + bytes(24) for number in range(count))
    return [base64.b32encode(digest).decode().lower().rstrip("=") + ".localhost" for digest in digests]


class Process:
    """A program in a process group of its own on one core."""

    def __init__(self, name, command, core, directory, stdin=None):
        self.name = name
        self.log = open(directory / f"{name}.log", "wb")
        self.child = subprocess.Popen(
            ["nice", "-n", "-20", "taskset", "-c", core, *command], stdin=stdin, stdout=self.log, stderr=self.log, start_new_session=True, cwd=directory
        )

    def pids(self):
        """Its processes: the one started here and all that come from it."""
        found, open_pids = [], [self.child.pid]
        while open_pids:
            pid = open_pids.pop()
            found.append(pid)
            try:
                open_pids += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            except OSError:
                pass
        return found

    def cpu_seconds(self):
        """Time on a processor, and how much of it was in user space: the whole to the nanosecond, the part from the kernel's ticks."""
        total = user = system = 0
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text().split()[0])
                ticks = (task / "stat").read_text().rpartition(")")[2].split()
                user, system = user + int(ticks[11]), system + int(ticks[12])
        return total / 1e9, user / TICKS, system / TICKS

    def memory_kib(self):
        """Resident memory of its own, shared pages counted by their part."""
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total

    def stop(self):
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()
        self.log.close()


NGINX = """
worker_processes 1; daemon off; pid {dir}/{name}.pid; error_log stderr error; worker_rlimit_nofile 20000;
events {{ worker_connections 20000; }}
http {{
    access_log off; keepalive_requests 100000000; keepalive_timeout 600s; server_tokens off;
    client_body_temp_path {dir}/{name}.body; proxy_temp_path {dir}/{name}.temp; client_max_body_size 0;
    fastcgi_temp_path {dir}/x; uwsgi_temp_path {dir}/x; scgi_temp_path {dir}/x;
    {body}
}}
"""

NGINX_PROXY = """
    map_hash_max_size 65536; map_hash_bucket_size 128; proxy_request_buffering off; proxy_max_temp_file_size 0;
    map $host $pod {{ default ""; {routes} }}
    {pools}
    server {{
        listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl http2;
        ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
        http2_max_concurrent_streams 128;
        location / {{
            if ($pod = "") {{ return 404; }}
            proxy_pass http://$pod; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
            proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host;
            {location}
        }}
    }}
"""

# Not for the other cases: nginx would set a field more with every request.
NGINX_STREAMS = 'proxy_buffering off; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "$http_connection";'

HAPROXY = """
global
    nbthread 1
    maxconn 8000
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    option http-keep-alive
    http-reuse always
frontend front
    bind 127.0.0.1:{http}
    bind 127.0.0.1:{https} ssl crt {pem} alpn h2,http/1.1
    http-request set-header X-Forwarded-For %[src]
    http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}
    http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    use_backend %[req.hdr(host),field(1,:),lower,map({map})]
backend pods
    server pod {upstream} pool-max-conn 1024
"""

CADDY = """
{{
    admin off
    auto_https off
    servers {{
        protocols h1 h2
    }}
}}
(pods) {{
    @pods host {hosts}
    reverse_proxy @pods {upstream}
}}
http://:{http} {{
    import pods
}}
https://:{https} {{
    tls {chain} {key}
    import pods
}}
"""


class Rival:
    """One proxy with so many routes to `upstream`, listening on free ports; `streams`: for connections that last."""

    def __init__(self, kind, routes, upstream, bench, streams=False):
        self.kind, self.streams = kind, streams
        self.http, self.https = free_port(), free_port()
        self.hosts = hosts(routes)
        command = getattr(self, f"_{kind}")(upstream, bench)
        self.process = Process(f"{kind}-{self.http}", command, PROXY_CORE, bench.dir, stdin=subprocess.PIPE)
        await_port(self.http, self.process)
        await_port(self.https, self.process)

    def _codiusd(self, upstream, bench):
        return [bench.edge, str(len(self.hosts)), upstream, f"127.0.0.1:{self.http}", f"127.0.0.1:{self.https}", bench.chain, bench.key]

    def _nginx(self, upstream, bench, apart=False):
        """`apart`: each route has connections of its own, as pods of different owners should."""
        pools = [f"pod{number}" for number in range(len(self.hosts))] if apart else ["pods"] * len(self.hosts)
        routes = " ".join(f"{host} {pool};" for host, pool in zip(self.hosts, pools))
        upstreams = (f"upstream {pool} {{ server {upstream}; keepalive 1024; keepalive_requests 100000000; }}" for pool in sorted(set(pools)))
        body = NGINX_PROXY.format(
            routes=routes, pools=" ".join(upstreams), http=self.http, https=self.https, chain=bench.chain, key=bench.key,
            location=NGINX_STREAMS if self.streams else "",
        )  # fmt: skip
        return nginx_command(f"nginx-{self.http}", body, bench.dir)

    def _nginx_apart(self, upstream, bench):
        return self._nginx(upstream, bench, apart=True)

    def _haproxy(self, upstream, bench):
        pem, routes, config = (bench.dir / f"haproxy-{self.http}.{ending}" for ending in ("pem", "map", "cfg"))
        pem.write_text(Path(bench.chain).read_text() + Path(bench.key).read_text())
        routes.write_text("".join(f"{host} pods\n" for host in self.hosts))
        config.write_text(HAPROXY.format(http=self.http, https=self.https, pem=pem, map=routes, upstream=upstream))
        return ["haproxy", "-db", "-f", str(config)]

    def _caddy(self, upstream, bench):
        config = bench.dir / f"Caddyfile-{self.http}"
        config.write_text(
            CADDY.format(
                http=self.http, https=self.https, chain=bench.chain, key=bench.key, hosts=" ".join(self.hosts), upstream=upstream
            )
        )
        environment = ["env", "GOMAXPROCS=1", f"HOME={bench.dir}", f"XDG_DATA_HOME={bench.dir}", f"XDG_CONFIG_HOME={bench.dir}"]
        return [*environment, "caddy", "run", "--adapter", "caddyfile", "--config", str(config)]

    def _node(self, upstream, bench):
        routes = bench.dir / f"node-{self.http}.hosts"
        routes.write_text("\n".join(self.hosts))
        return ["node", str(HERE / "node/proxy.js"), str(routes), upstream, str(self.http), str(self.https), bench.chain, bench.key]

    def stop(self):
        self.process.stop()


def nginx_command(name, body, directory):
    config = directory / f"{name}.conf"
    config.write_text(NGINX.format(dir=directory, name=name, body=body))
    return ["nginx", "-c", str(config), "-p", str(directory), "-e", "stderr"]


class Backend:
    """What the pods are: nginx with a small answer, and files of 1 and 100 MiB in memory."""

    def __init__(self, directory):
        self.port = free_port()
        self.files = directory / "files"
        self.files.mkdir()
        for name, mib in (("1m", 1), ("100m", 100)):
            with open(self.files / name, "wb") as file:
                for _ in range(mib):
                    file.write(os.urandom(1 << 20))
        body = f"""
    sendfile on; default_type text/plain;
    server {{
        listen 127.0.0.1:{self.port};
        location / {{ root {self.files}; try_files $uri @small; }}
        location @small {{ return 200 "Hello, World!"; }}
        location /sink {{ client_body_buffer_size 101m; proxy_pass http://127.0.0.1:{self.port}/; }}
    }}
"""
        self.process = Process("backend", nginx_command("backend", body, directory), LOAD_CORE, directory)
        await_port(self.port, self.process)
        self.address = f"127.0.0.1:{self.port}"

    def stop(self):
        self.process.stop()


class StreamsPod:
    """A pod with connections that last: WebSockets that echo, and an event every so often to all who listen."""

    EVENT_MS = 1000

    def __init__(self, bench):
        self.address = f"127.0.0.1:{free_port()}"
        command = [bench.streams, "pod", self.address, str(self.EVENT_MS)]
        self.process = Process("streams-pod", command, LOAD_CORE, bench.dir)
        await_port(int(self.address.rpartition(":")[2]), self.process)

    def stop(self):
        self.process.stop()
