// One paid HTTP request by ilp-fetch, for the tests:
//
//   node -r ./writable-closed.js pay.js '{"url":..., "method":..., "body":..., "headers":{...}, "maxPrice":"1000", "payToken":"<hex>"}'
//
// prints one line of JSON, {"status", "price", "body", "pay", "source", "destination"}, or {"error"} when ilp-fetch throws.
// Where to connect to is told by ILP_CREDENTIALS, as to every user of ilp-plugin.
'use strict'
const ilpFetch = require('ilp-fetch')

async function main () {
  const { url, payToken, ...options } = JSON.parse(process.argv[2])
  if (payToken) options.payToken = Buffer.from(payToken, 'hex')
  const response = await ilpFetch(url, options)
  return {
    status: response.status,
    price: response.price,
    body: await response.text(),
    pay: response.headers.get('pay'),
    source: response.source,
    destination: response.destination
  }
}

main()
  .catch(error => ({ error: `${error.name}: ${error.message}` }))
  .then(result => process.stdout.write(JSON.stringify(result) + '\n', () => process.exit(0)))
