// The operator's API, beside the browser.

export const ask = async (operator, path, body) => {
  const options = body && { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) }
  const answer = await fetch(new URL(path, operator), options)
  if (!answer.ok) throw new Error(`${path} answers ${answer.status}: ${await answer.text()}`)
  const text = await answer.text()
  return text && JSON.parse(text)
}
