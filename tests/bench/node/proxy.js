// The Node codiusd's way: one http-proxy in front of every pod, here with connections kept alive.
const fs = require('fs')
const http = require('http')
const https = require('https')
const httpProxy = require('http-proxy')

const [hostsFile, upstream, httpPort, httpsPort, chain, key] = process.argv.slice(2)
const pods = new Map(fs.readFileSync(hostsFile, 'utf8').trim().split('\n').map(host => [host, `http://${upstream}`]))
const proxy = httpProxy.createProxyServer({ xfwd: true, agent: new http.Agent({ keepAlive: true, maxSockets: Infinity }) })
const answer = (request, response) => {
  const target = pods.get((request.headers.host || '').split(':')[0])
  if (!target) return response.writeHead(404).end()
  proxy.web(request, response, { target }, () => response.writeHead(502).end())
}
http.createServer(answer).listen(Number(httpPort), '127.0.0.1')
https.createServer({ cert: fs.readFileSync(chain), key: fs.readFileSync(key) }, answer).listen(Number(httpsPort), '127.0.0.1')
