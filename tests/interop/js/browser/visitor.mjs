// The host's page: what is true there, stays true, and can be copied.
import assert from 'node:assert/strict'
import { ask } from './ask.mjs'
import { looksWellNow } from './look.mjs'

// The Node codiusd's page had these; who reads them from there goes on to.
const IDS = ['uri', 'numPeers', 'serverUptime', 'serviceUptime', 'avgLoad', 'currency', 'costPerMonth', 'memory', 'fullMem']

export const isVisited = async (tab, { visitor, operator, pictures }) => {
  const { page } = tab
  const info = await (await fetch(new URL('/info', visitor))).json()
  for (const id of IDS) assert.equal(await page.$$eval(`[id="${id}"]`, (all) => all.length), 1, `one element is ${id}`)
  const shown = async (id) => tab.text(`#${id}`)
  assert.equal(await shown('uri'), info.uri)
  assert.equal(await shown('currency'), info.currency)
  assert.equal(await shown('costPerMonth'), String(info.costPerMonth))
  assert.equal(await shown('fullMem'), info.fullMem ? 'yes' : 'no')
  assert.equal(await shown('runningContracts'), String(info.runningContracts))
  for (const id of ['avgLoad', 'memory', 'numPeers', 'serverUptime', 'serviceUptime']) assert.match(await shown(id), /^\d/, id)
  const prices = await tab.text('#machines')
  for (const machine of info.machines) assert.ok(prices.includes(machine.name) && prices.includes(String(machine.costPerMonth)), prices)
  await copies(tab)
  await saysThatItIsOld(tab)
  return staysTrue(tab, operator, pictures)
}

const copies = async (tab) => {
  const { page } = tab
  await tab.context.overridePermissions(tab.origin, ['clipboard-read', 'clipboard-write', 'clipboard-sanitized-write'])
  await page.bringToFront()
  const command = await tab.text('#command')
  assert.match(command, /^codiusd upload \S+ --host http:\/\/localhost:\d+ --duration 1h$/)
  await page.click('#copy')
  await tab.becomes('a word that it was copied', () => document.getElementById('copied').textContent.includes('Copied'))
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), command)
}

const saysThatItIsOld = async (tab) => {
  await tab.offline(() => tab.becomes('a word that figures are old', () => document.getElementById('stale').textContent.startsWith('Host not responding since ')))
  await tab.becomes('that word to be gone', () => !document.getElementById('stale').textContent)
}

// What the operator changes is there without the page being loaded again.
const staysTrue = async (tab, operator, pictures) => {
  await tab.page.evaluate(() => { globalThis.same = true })
  const reads = (id, text) => tab.becomes(`${id} to be ${text}`, (id, text) => document.getElementById(id).textContent === text, id, text)
  const before = await tab.text('#costPerMonth')
  const perHour = await tab.text('#machines li')
  await ask(operator, '/config', { hostCostPerMonth: '12.5', durable: false })
  await reads('costPerMonth', '12.5')
  await tab.becomes('another price of the sizes', (row) => document.querySelector('#machines li').textContent.trim() !== row, perHour)
  await ask(operator, '/config', { hostCostPerMonth: before, durable: false })
  await reads('costPerMonth', before)
  await tab.becomes('the price there was', (row) => document.querySelector('#machines li').textContent.trim() === row, perHour)
  await reads('acceptingUploads', 'Accepts uploads')
  await ask(operator, '/drain', {})
  await reads('acceptingUploads', 'Accepts no uploads now')
  await tab.becomes('a word to who has come to upload', () => document.getElementById('closed').textContent.includes('accepts no uploads'))
  const faults = await looksWellNow(tab, `${pictures}/visitor-closed.png`)
  await ask(operator, '/undrain', {})
  await reads('acceptingUploads', 'Accepts uploads')
  assert.equal(await tab.page.evaluate(() => globalThis.same), true, 'it wasn\'t loaded again')
  return faults
}
