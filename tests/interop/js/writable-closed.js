// Preload (`node -r`): lets ilp-protocol-stream up to 2.7.1 run on Node 18 and later.
//
// Its streams are Duplex streams that assign `this.closed = false`. Since Node 18 a Duplex inherits `closed` from Readable
// as a getter without a setter, so the assignment throws. Here Duplex gets a `closed` of its own: the same getter, and a
// setter that does what the assignment did before, namely to make `closed` an ordinary property of that one stream.
'use strict'
const { Duplex, Readable } = require('stream')
const inherited = Object.getOwnPropertyDescriptor(Readable.prototype, 'closed')

if (inherited && !inherited.set) {
  Object.defineProperty(Duplex.prototype, 'closed', {
    get: inherited.get,
    set (value) {
      Object.defineProperty(this, 'closed', { value, writable: true, configurable: true, enumerable: true })
    }
  })
}
