// What holds of every page, whatever it shows.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
// What a phone that is held upright, or a window that is made large twice, has at least.
const NARROW = 320

export const looksWell = async (tab, picture) => {
  const { page } = tab
  await page.screenshot({ path: picture, fullPage: true })
  // Small, for the README: what a visitor sees first.
  await page.screenshot({ path: picture.replace(/png$/, 'webp'), type: 'webp', quality: 60, clip: { x: 0, y: 0, width: page.viewport().width, height: 640 } })
  await page.$$eval('details', (all) => all.forEach((one) => { one.open = true }))
  const faults = [...await accessible(page), ...await fits(page), ...await still(page), ...await reached(page)]
  const { width, height } = page.viewport()
  await page.setViewport({ width: NARROW, height })
  faults.push(...(await fits(page)).map((fault) => `${fault} (${NARROW} wide)`))
  await page.setViewport({ width, height })
  return faults
}

// The same of a page that is in use: what it shows now, at the size of a phone.
export const looksWellNow = async ({ page }, picture) => {
  const before = page.viewport()
  await page.setViewport({ width: 390, height: 844 })
  await page.screenshot({ path: picture, fullPage: true })
  const faults = [...await accessible(page), ...await fits(page)]
  await page.setViewport(before)
  return faults.map((fault) => `${fault} (${picture})`)
}

export const looksWellWithoutScripts = async (tab, picture, texts) => {
  const { page } = tab
  await page.screenshot({ path: picture, fullPage: true })
  const { text, buttons } = await page.evaluate(() => ({
    text: document.body.innerText + [...document.querySelectorAll('a')].map((link) => link.href).join(' '),
    buttons: [...document.querySelectorAll('button, input')].filter((control) => control.checkVisibility()).map((control) => control.outerHTML)
  }))
  const missing = texts.filter((wanted) => !text.includes(wanted)).map((wanted) => `it doesn't say ${wanted}`)
  return [...missing, ...buttons.map((button) => `this can't do anything: ${button}`), ...await fits(page)]
}

// Every rule of axe-core, also those of best practice and those it tries out.
const accessible = async (page) => {
  await page.evaluate(AXE)
  const { violations, incomplete } = await page.evaluate(() => {
    const rules = Object.fromEntries(axe.getRules().map(({ ruleId }) => [ruleId, { enabled: true }]))
    return axe.run(document, { rules, resultTypes: ['violations', 'incomplete'] })
  })
  const unsure = incomplete.filter(({ id }) => id.startsWith('color-contrast'))
  return [...violations, ...unsure].flatMap(({ id, help, nodes }) => nodes.map((node) =>
    `axe: ${id}: ${help}: ${node.target.join(' ')}: ${node.failureSummary?.replaceAll('\n', ' ')}`))
}

// Nothing beyond the sides, nothing cut off.
const fits = (page) => page.evaluate(() => {
  const root = document.scrollingElement
  const faults = []
  if (root.scrollWidth > root.clientWidth) faults.push(`it scrolls sideways: ${root.scrollWidth} in ${root.clientWidth}`)
  for (const button of document.querySelectorAll('button')) {
    const text = document.createRange()
    text.selectNodeContents(button)
    if (new Set([...text.getClientRects()].map((box) => box.top)).size > 1) faults.push(`a button in several lines: ${button.textContent}`)
  }
  for (const element of document.body.querySelectorAll('*')) {
    // The heads of a table of blocks are for screen readers only.
    const unseen = element.closest('thead') && getComputedStyle(element.closest('thead')).clipPath !== 'none'
    if (!element.checkVisibility() || unseen || element.closest('svg')) continue
    const style = getComputedStyle(element)
    const box = element.getBoundingClientRect()
    const name = `<${element.localName} id="${element.id}" class="${element.className}">${element.textContent.trim().slice(0, 40)}`
    if (box.width && (box.left < -0.5 || box.right > root.clientWidth + 0.5)) faults.push(`beyond the side: ${name}`)
    const clips = style.overflowX !== 'visible' || style.textOverflow === 'ellipsis'
    if (element.localName === 'input') continue
    if (clips && element.scrollWidth > element.clientWidth + 1) faults.push(`cut off: ${name}`)
    if (style.overflowY !== 'visible' && element.scrollHeight > element.clientHeight + 1) faults.push(`cut off below: ${name}`)
  }
  return faults
})

// Who wants less motion gets none.
const still = (page) => page.evaluate(() => {
  const moves = [...document.querySelectorAll('*')].filter((element) => {
    const style = getComputedStyle(element)
    return style.transitionDuration.split(',').some((time) => parseFloat(time) > 0) || style.animationName !== 'none' || style.scrollBehavior === 'smooth'
  })
  return [
    ...moves.map((element) => `it moves: ${element.outerHTML.slice(0, 80)}`),
    ...document.getAnimations().map((animation) => `it moves: ${animation.animationName}`)
  ]
})

// Tab leads to every control, in order, and one sees where one is.
const reached = async (page) => {
  const controls = await page.evaluate(() => {
    const all = [...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex]')]
    const usable = all.filter((control) => control.checkVisibility({ visibilityProperty: true }) && !control.disabled)
    usable.forEach((control, index) => { control.dataset.reach = index })
    document.activeElement?.blur()
    scrollTo(0, 0)
    return usable.map((control) => control.outerHTML.slice(0, 100))
  })
  const [seen, faults] = [[], []]
  for (let step = 0; step < controls.length; step++) {
    const before = await page.evaluate(() => {
      const next = document.querySelector(`[data-reach="${Number(document.activeElement?.dataset.reach ?? -1) + 1}"]`)
      const { outline, boxShadow, borderColor } = getComputedStyle(next)
      return [outline, boxShadow, borderColor].join()
    })
    await page.keyboard.press('Tab')
    const now = await page.evaluate(() => {
      const { outline, boxShadow, borderColor, outlineWidth, outlineStyle } = getComputedStyle(document.activeElement)
      const box = document.activeElement.getBoundingClientRect()
      return {
        index: Number(document.activeElement.dataset.reach ?? -1),
        style: [outline, boxShadow, borderColor].join(),
        ring: outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2,
        inView: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth
      }
    })
    if (now.index !== step) faults.push(`Tab leads to ${controls[now.index] ?? 'nothing'} instead of ${controls[step]}`)
    if (!now.ring || now.style === before) faults.push(`one doesn't see that it is focused: ${controls[step]}`)
    if (!now.inView) faults.push(`it is focused out of sight: ${controls[step]}`)
    seen.push(now.index)
    if (faults.length > 3) break
  }
  return faults
}
