// Preload (`node -r`): moneyd has port 7768 built in. Whoever asks for that port gets a free one instead, and it is told
// on standard output as one line of JSON: {"btpPort":12345}.
'use strict'
const { Server } = require('net')
const BUILT_IN = 7768
const listen = Server.prototype.listen

Server.prototype.listen = function (port, ...rest) {
  if (port !== BUILT_IN) return listen.call(this, port, ...rest)
  this.once('listening', () => console.log(JSON.stringify({ btpPort: this.address().port })))
  return listen.call(this, 0, ...rest)
}
