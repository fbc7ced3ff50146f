// The host's page and the operator's in a real Chromium, for tests/e2e/browser.rs:
//
//   node browser.mjs '{"visitor": "http://localhost:PORT/", "operator": "http://127.0.0.1:PORT/", "pods": ["<hash>", ...], "pictures": DIRECTORY}'
//
// prints what is wrong, a line each, and ends with 1 if anything is. Two of the pods are stopped on the way. It needs a home of its own:
// the browser's profile is kept there.
import { existsSync, mkdirSync } from 'node:fs'
import puppeteer from 'puppeteer-core'
import { looksWell, looksWellWithoutScripts } from './browser/look.mjs'
import { isOperated } from './browser/operator.mjs'
import { opened } from './browser/tab.mjs'
import { isVisited } from './browser/visitor.mjs'

const options = JSON.parse(process.argv[2])
const faults = []
const started = Date.now()

const note = (what) => console.log(`${((Date.now() - started) / 1000).toFixed(1)} s: ${what}`)

// Runs one part; what is wrong there is told with its name, and the others go on.
const part = async (name, run) => {
  try {
    faults.push(...(await run() ?? []).map((fault) => `${name}: ${fault}`))
  } catch (error) {
    faults.push(`${name}: ${error.stack}`)
  }
  note(name)
}

mkdirSync(options.pictures, { recursive: true })
const browser = await puppeteer.launch({
  executablePath: process.env.PATH.split(':').map((directory) => `${directory}/chromium`).find(existsSync),
  pipe: true,
  userDataDir: `${process.env.HOME}/profile`,
  // Everything but the host under test is a name that doesn't resolve.
  args: [
    '--no-sandbox', '--no-proxy-server', '--disable-gpu', '--force-device-scale-factor=1', '--disable-component-update',
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1'
  ]
})
try {
  note(`${await browser.version()} is up`)
  for (const page of ['visitor', 'operator']) {
    for (const [size, width, height] of [['phone', 390, 844], ['desktop', 1280, 900]]) {
      for (const scheme of ['light', 'dark']) {
        const picture = `${options.pictures}/${page}-${size}-${scheme}.png`
        const tab = await opened(browser, options[page], { width, height, scheme })
        await part(`${page}, ${size}, ${scheme}`, () => looksWell(tab, picture))
        await part(`${page}, ${size}, ${scheme}, at the end`, () => tab.end())
      }
    }
    const still = await opened(browser, options[page], { scripts: false })
    const picture = `${options.pictures}/${page}-without-scripts.png`
    await part(`${page}, without scripts`, () => looksWellWithoutScripts(still, picture, page === 'visitor' ? ['codiusd upload'] : options.pods))
    await part(`${page}, without scripts, at the end`, () => still.end())
  }
  const visitor = await opened(browser, options.visitor, { hurried: true })
  await part('visitor', () => isVisited(visitor, options))
  await part('visitor, at the end', () => visitor.end())
  const operator = await opened(browser, options.operator, { hurried: true })
  await part('operator', () => isOperated(operator, options))
  await part('operator, at the end', () => operator.end())
} finally {
  await browser.close()
}
note(faults.length ? `${faults.length} faults` : 'nothing is wrong')
for (const fault of faults) console.log(fault)
process.exitCode = faults.length ? 1 : 0
