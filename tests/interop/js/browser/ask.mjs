// The operator's API and pods, beside the browser.
import http from 'node:http'

export const ask = async (operator, path, body) => {
  const options = body && { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }
  const answer = await fetch(new URL(path, operator), options)
  if (!answer.ok) throw new Error(`${path} answers ${answer.status}: ${await answer.text()}`)
  const text = await answer.text()
  return text && JSON.parse(text)
}

// A visit to a pod.
export const visit = (visitor, hash) => new Promise((resolve, reject) => {
  const { port, host } = new URL(visitor)
  const request = http.get({ host: '127.0.0.1', port, headers: { host: `${hash}.${host}` } }, (answer) => {
    answer.resume().on('end', () => answer.statusCode === 200 ? resolve() : reject(new Error(`${hash} answers ${answer.statusCode}`)))
  })
  request.on('error', reject)
})
