// A tab that remembers what a page should never do.

// How often the pages look again, in milliseconds. What is looked at stays as it is; where pages are used they are hurried.
const ROUNDS = [5000, 10000]
const NEVER = 2 ** 31 - 1
const SOON = 250
const WITHIN = 15000

export class Tab {
  constructor (page, url) {
    this.page = page
    this.origin = new URL(url).origin
    this.faults = []
    // Answers that a part of a test asks for, such as a refusal: the browser's console speaks of them.
    this.expected = []
    // What the page told the host.
    this.told = []
  }

  watch () {
    this.page.on('console', (message) => {
      if (['error', 'warn', 'assert'].includes(message.type())) this.faults.push(`console: ${message.text()} ${message.location().url ?? ''}`)
    })
    this.page.on('pageerror', (error) => this.faults.push(`uncaught: ${error.stack ?? error}`))
    this.page.on('request', (request) => {
      const url = new URL(request.url())
      if (request.method() !== 'GET') this.told.push(url.pathname)
      if (url.protocol !== 'data:' && url.origin !== this.origin) this.faults.push(`a request to somebody else: ${url}`)
    })
    this.page.on('requestfailed', (request) => {
      const reason = request.failure()?.errorText
      // What was under way when the tab was closed or loaded anew.
      if (reason !== 'net::ERR_ABORTED') this.faults.push(`a request failed: ${request.url()} ${reason}`)
    })
    this.page.on('dialog', async (dialog) => {
      this.faults.push(`a dialog nobody can style: ${dialog.message()}`)
      await dialog.dismiss()
    })
  }

  // Whether what the page shows becomes so, without being loaded again.
  async becomes (what, look, ...told) {
    try {
      await this.page.waitForFunction(look, { timeout: WITHIN, polling: 50 }, ...told)
    } catch (error) {
      throw new Error(`waited ${WITHIN} ms for ${what}: ${error.message}`)
    }
  }

  text (selector) {
    return this.page.$eval(selector, (element) => element.textContent.trim())
  }

  // Runs a part of a test while nobody can be reached.
  async offline (run) {
    this.expected.push('ERR_INTERNET_DISCONNECTED')
    await this.page.setOfflineMode(true)
    await run()
    await this.page.setOfflineMode(false)
  }

  // Closes it; what it did that it shouldn't have.
  async end () {
    const violations = await this.page.evaluate(() => globalThis.violations ?? [])
    await this.page.close()
    await this.context.close()
    const expected = (fault) => this.expected.some((part) => fault.includes(part))
    return [...this.faults.filter((fault) => !expected(fault)), ...violations]
  }
}

export const opened = async (browser, url, { width = 1280, height = 900, scheme = 'light', scripts = true, hurried = false }) => {
  const context = await browser.createBrowserContext()
  const tab = new Tab(await context.newPage(), url)
  tab.context = context
  tab.watch()
  await tab.page.setViewport({ width, height })
  await tab.page.emulateMediaFeatures([
    { name: 'prefers-color-scheme', value: scheme },
    { name: 'prefers-reduced-motion', value: 'reduce' }
  ])
  await tab.page.setJavaScriptEnabled(scripts)
  await tab.page.evaluateOnNewDocument(() => {
    globalThis.violations = []
    addEventListener('securitypolicyviolation', (event) => {
      globalThis.violations.push(`the policy was violated: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`)
    })
  })
  await tab.page.evaluateOnNewDocument((rounds, round) => {
    const real = globalThis.setTimeout
    globalThis.setTimeout = (run, wait, ...told) => real(run, rounds.includes(wait) ? round : wait, ...told)
  }, ROUNDS, hurried ? SOON : NEVER)
  const answer = await tab.page.goto(url, { waitUntil: 'load' })
  if (answer.status() !== 200) throw new Error(`${url} answers ${answer.status()}`)
  return tab
}
