// The operator's page: what its buttons do, and that they ask first.
import assert from 'node:assert/strict'
import { ask, visit } from './ask.mjs'
import { looksWellNow } from './look.mjs'

export const isOperated = async (tab, { operator, visitor, pods, pictures }) => {
  const look = (name) => looksWellNow(tab, `${pictures}/operator-${name}.png`)
  const see = (path) => ask(operator, path)
  await tab.page.evaluate(() => { globalThis.same = true })
  const [stopped, banned, left] = pods
  await shows(tab, see, pods)
  const faults = await stops(tab, see, look, stopped, [banned, left])
  await keepsItsPlace(tab, visitor, left)
  faults.push(...await bans(tab, see, look, banned, left))
  await tab.offline(() => isSaid(tab, 'Host not responding: '))
  await drains(tab, see)
  await prices(tab, see)
  await saysWhatFails(tab, operator, left)
  faults.push(...await look('without-pods'))
  assert.equal(await tab.page.evaluate(() => globalThis.same), true, 'it wasn\'t loaded again')
  return faults
}

const row = (hash) => `tr:has(a[href*="${hash}"])`
const running = async (see) => (await see('/pods')).pods.map((pod) => pod.manifestHash).sort()

const shows = async (tab, see, pods) => {
  for (const hash of pods) {
    const text = await tab.text(row(hash))
    assert.match(text, /running/)
    assert.match(text, /\d+ (min|h)/, 'the time that is left')
    assert.match(text, /512 MiB/)
  }
  const { earnings } = await see('/status')
  assert.ok(BigInt(earnings[0].earned) > 0n, 'something was earned')
  const charts = await tab.page.$$eval('.chart svg', (all) => all.map((chart) => [chart.getAttribute('role'), chart.getAttribute('aria-label')]))
  assert.ok(charts.length >= 5, `${charts.length} charts`)
  for (const [role, label] of charts) {
    assert.equal(role, 'img')
    assert.match(label, /now, .* at the highest, over/, 'a chart in words')
  }
}

const press = async (tab, selector, name) => {
  const button = await tab.page.$(`${selector} ::-p-aria([name="${name}"][role="button"])`) ?? await tab.page.$(`${selector} ::-p-text(${name})`)
  assert.ok(button, `no button ${name} in ${selector}`)
  await button.click()
}
const isAsked = (tab, text) => tab.becomes(`the question ${text}`, (text) =>
  document.querySelector('dialog').open && document.getElementById('question').textContent.includes(text), text)
const isNotAsked = (tab) => tab.becomes('the question to be gone', () => !document.querySelector('dialog').open)
const isSaid = (tab, text) => tab.becomes(`it to say ${text}`, (text) => document.getElementById('said').textContent.includes(text), text)
const isGone = (tab, selector) => tab.becomes(`${selector} to be gone`, (selector) => !document.querySelector(selector), selector)
const isThere = (tab, selector) => tab.becomes(`${selector} to be there`, (selector) => document.querySelector(selector), selector)

// Nothing was said but once it was confirmed.
const hasTold = (tab, ...paths) => assert.deepEqual(tab.told.splice(0), paths)
const focused = (tab) => tab.page.evaluate(() => document.activeElement.textContent)

const stops = async (tab, see, look, hash, others) => {
  for (const leave of [() => tab.page.keyboard.press('Escape'), () => press(tab, 'dialog', 'Cancel')]) {
    await press(tab, row(hash), 'Stop')
    await isAsked(tab, hash)
    assert.equal(await focused(tab), 'Cancel', 'Enter does no harm')
    await leave()
    await isNotAsked(tab)
    assert.equal(await focused(tab), 'Stop', 'one is where one was')
    assert.ok((await running(see)).includes(hash), 'nothing was done')
  }
  await press(tab, row(hash), 'Stop')
  await isAsked(tab, hash)
  const faults = await look('question')
  await press(tab, 'dialog', 'Stop')
  await isSaid(tab, 'Done')
  await isGone(tab, row(hash))
  assert.deepEqual(await running(see), [...others].sort())
  hasTold(tab, '/pods/stop')
  return faults
}

// What is drawn anew while somebody is asked, or has a button in hand, doesn't take it away.
const keepsItsPlace = async (tab, visitor, hash) => {
  const requests = () => tab.text(`${row(hash)} [data-name=Requests]`)
  const isVisited = async () => {
    const before = await requests()
    await visit(visitor, hash)
    await tab.becomes('a request more', (selector, before) => document.querySelector(selector).textContent.trim() !== before,
      `${row(hash)} [data-name=Requests]`, before)
  }
  await press(tab, row(hash), 'Stop')
  await isAsked(tab, hash)
  await isVisited()
  await tab.page.keyboard.press('Escape')
  await isNotAsked(tab)
  for (const when of ['after the question', 'at the button']) {
    const there = await tab.page.evaluate((selector) => document.querySelector(selector).contains(document.activeElement), row(hash))
    assert.ok(there && await focused(tab) === 'Stop', `one is where one was, ${when}`)
    await isVisited()
  }
  hasTold(tab)
}

const bans = async (tab, see, look, hash, left) => {
  await press(tab, row(hash), 'Ban')
  await isAsked(tab, hash)
  await tab.page.keyboard.press('Escape')
  await isNotAsked(tab)
  assert.deepEqual((await see('/bans')).bans, [])
  await tab.page.focus(`${row(hash)} td:last-child button:last-child`)
  await tab.page.keyboard.press('Enter')
  await isAsked(tab, hash)
  await tab.page.keyboard.press('Tab')
  await tab.page.keyboard.press('Enter')
  await isGone(tab, row(hash))
  assert.deepEqual((await see('/bans')).bans, [{ kind: 'manifest', subject: hash, stop: true }])
  assert.deepEqual(await running(see), [left])

  await tab.page.type('#ban [name=subject]', 'nginx')
  await press(tab, '#ban', 'Ban')
  await isAsked(tab, 'nginx')
  await press(tab, 'dialog', 'Ban')
  await tab.becomes('nginx among the bans', () => document.querySelector('[data-live=bans]').textContent.includes('library/nginx'))
  assert.equal(await tab.page.$eval('#ban [name=subject]', (field) => field.value), '')
  const faults = await look('bans')
  for (const subject of ['library/nginx', hash]) {
    await press(tab, `li:has(button[data-ask*="${subject}"])`, 'Lift')
    await isAsked(tab, subject)
    await press(tab, 'dialog', 'Lift')
    await isGone(tab, `li:has(button[data-ask*="${subject}"])`)
  }
  assert.deepEqual((await see('/bans')).bans, [])
  hasTold(tab, '/ban', '/ban', '/unban', '/unban')
  return faults
}

const drains = async (tab, see) => {
  await press(tab, '[data-live=state]', 'Drain')
  await isAsked(tab, 'Refuse uploads')
  await press(tab, 'dialog', 'Drain')
  await isThere(tab, 'button[data-path="/undrain"]')
  assert.equal((await see('/status')).draining, true)
  await press(tab, '[data-live=state]', 'Accept uploads')
  await isThere(tab, 'button[data-path="/drain"]')
  assert.equal((await see('/status')).draining, false)
  hasTold(tab, '/drain', '/undrain')
}

const prices = async (tab, see) => {
  const before = (await see('/status')).costPerMonth
  const choose = async (price) => {
    await tab.page.$eval('#price [name=price]', (field) => { field.value = '' })
    await tab.page.type('#price [name=price]', price)
    await press(tab, '#price', 'Set')
    await isAsked(tab, price)
    await press(tab, 'dialog', 'Set')
    await tab.becomes('the new price', (price) => document.querySelector('[data-live=price]').textContent.includes(price), price)
    assert.equal((await see('/status')).costPerMonth, price)
  }
  await choose('12.75')
  await choose(before)
  await tab.page.type('#price [name=price]', '-1')
  await press(tab, '#price', 'Set')
  assert.equal(await tab.page.$eval('dialog', (dialog) => dialog.open), false, 'a price is no less than nothing')
  assert.equal((await see('/status')).costPerMonth, before)
  hasTold(tab, '/config', '/config')
}

// A pod that has just gone can't be stopped again: the page says so, in the host's words.
const saysWhatFails = async (tab, operator, hash) => {
  tab.expected.push('404 (Not Found)')
  await press(tab, row(hash), 'Stop')
  await isAsked(tab, hash)
  await ask(operator, '/pods/stop', { manifestHash: hash })
  await press(tab, 'dialog', 'Stop')
  await isSaid(tab, 'no pod found')
  await isGone(tab, row(hash))
  await tab.becomes('what to do without pods', () => document.querySelector('[data-live=pods]').textContent.includes('No pods'))
}
