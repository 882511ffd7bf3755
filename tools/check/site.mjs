// Builds the documentation site, and opens each page in Chromium at two widths: no console error, no request to another origin, nothing wider than
// the window; each internal link and anchor leads somewhere; the search finds a function; the first example is the one in README, which
// __test__/package/readme.spec.ts runs. `--pictures FOLDER` also takes pictures of some pages. The last line: `N passed, N failed`.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, readdirSync } from 'node:fs'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { extname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from '../run.mjs'

/** The path at which the site is served: not the root, so that a link without it fails. */
const BASE = '/base/'
const WIDTHS = [360, 1280]
const SHOWN = [
  '',
  'guide/restarts.html',
  'guide/superserver.html',
  'reference/fdpass.html',
  'errors.html',
  'architecture.html'
]

const { values } = parseArgs({ options: { pictures: { type: 'string' }, 'no-build': { type: 'boolean' } } })
const browserPath = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/google-chrome'].find(
  (path) => path !== undefined && existsSync(path)
)
if (browserPath === undefined) {
  console.error('Chromium is missing: install it (Debian: apt-get install chromium), or set CHROMIUM to its path.')
  process.exit(1)
}
if (values['no-build'] !== true) {
  const env = { ...process.env, SITE_BASE: BASE }
  const { status } = spawnSync(process.execPath, ['tools/build/site/site.mjs', 'build'], {
    cwd: root,
    env,
    stdio: ['ignore', 2, 2]
  })
  if (status !== 0) process.exit(status ?? 1)
}

const dist = join(root, 'build', 'site', '.vitepress', 'dist')
const types = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
  '.woff2': 'font/woff2'
}
const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, 'http://localhost')
  const path = decodeURIComponent(pathname.slice(BASE.length - 1)).replace(/\/$/, '/index.html')
  const file = join(dist, path)
  if (!pathname.startsWith(BASE) || !existsSync(file)) return response.writeHead(404).end('not found')
  response
    .writeHead(200, { 'Content-Type': types[extname(file)] ?? 'application/octet-stream' })
    .end(readFileSync(file))
}).listen(0, '127.0.0.1')
await new Promise((resolve) => server.once('listening', resolve))
const origin = `http://127.0.0.1:${server.address().port}`

let passed = 0
let failed = 0
function check(title, problems) {
  if (problems.length === 0) passed++
  else failed++
  console.log(`${problems.length === 0 ? 'ok' : 'not ok'} - ${title}`)
  for (const problem of new Set(problems)) console.log(`    ${problem}`)
}

const { chromium } = createRequire(join(root, 'tools/build/site/package.json'))('playwright-core')
const browser = await chromium.launch({ executablePath: browserPath, args: ['--no-sandbox'] })

/** Opens a page, and returns what goes wrong there. */
async function open(path, width, colorScheme = 'light') {
  const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme })
  const problems = []
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') problems.push(`console: ${message.text()}`)
  })
  page.on('pageerror', (error) => problems.push(`error: ${error.message}`))
  page.on('request', (request) => {
    const { protocol, origin: other } = new URL(request.url())
    if (other !== origin && protocol !== 'data:' && protocol !== 'blob:') problems.push(`request to ${request.url()}`)
  })
  page.on('response', (response) => {
    if (response.status() >= 400) problems.push(`${response.status()} for ${response.url()}`)
  })
  await page.goto(`${origin}${BASE}${path}`)
  // VitePress has taken the page over.
  await page.waitForFunction(() => document.querySelector('#app')?.__vue_app__ !== undefined)
  for (const diagram of await page.locator('.diagram').all()) {
    const svg = diagram.locator('svg').first()
    await svg.waitFor({ timeout: 20_000 }).catch(() => problems.push('a diagram was not drawn'))
  }
  await page.evaluate(() => document.fonts.ready.then(() => undefined))
  return { page, problems }
}

/** Runs in the page: what is wider than the window, except what scrolls inside of itself. */
function overflows() {
  const { scrollWidth, clientWidth } = document.documentElement
  if (scrollWidth <= clientWidth) return []
  const scrolls = (element) =>
    element !== null && (getComputedStyle(element).overflowX !== 'visible' || scrolls(element.parentElement))
  const names = [...document.querySelectorAll('body *')]
    .filter((element) => element.getBoundingClientRect().right > clientWidth + 1 && !scrolls(element.parentElement))
    .map(
      (element) => `${element.tagName.toLowerCase()}.${element.className}: ${element.textContent.trim().slice(0, 40)}`
    )
  return [`${scrollWidth} pixels in a window of ${clientWidth}: ${names.slice(0, 5).join('; ')}`]
}

/** Runs in the page: how light its background is, from 0 to 765. */
function luminance() {
  const parts = getComputedStyle(document.body).backgroundColor.match(/\d+/g)
  return parts.reduce((sum, part) => sum + Number(part), 0)
}

/** Runs in the page: its links and its anchors. */
function linksAndAnchors() {
  const links = [...document.querySelectorAll('a[href]')].map(({ href }) => href)
  return { links, anchors: [...document.querySelectorAll('[id]')].map(({ id }) => id) }
}

const pages = readdirSync(dist, { recursive: true }).filter((name) => name.endsWith('.html') && name !== '404.html')
const found = new Map()
for (const path of pages.toSorted()) {
  const { page, problems } = await open(path, WIDTHS[0])
  for (const width of WIDTHS) {
    await page.setViewportSize({ width, height: 900 })
    problems.push(...(await page.evaluate(overflows)))
  }
  found.set(path, await page.evaluate(linksAndAnchors))
  await page.close()
  check(`${path}: no error, no foreign request, and no overflow at ${WIDTHS.join(' and ')} pixels`, problems)
}

for (const [path, { links }] of found) {
  const problems = []
  for (const link of links) {
    const url = new URL(link)
    if (url.origin !== origin) continue
    const name = decodeURIComponent(url.pathname.slice(BASE.length)).replace(/(^|\/)$/, '$1index.html')
    const target = found.get(name)
    if (target === undefined) {
      if (!existsSync(join(dist, name))) problems.push(`no page: ${link}`)
    } else if (url.hash !== '' && !target.anchors.includes(decodeURIComponent(url.hash.slice(1)))) {
      problems.push(`no anchor: ${link}`)
    }
  }
  check(`${path}: every internal link leads to a page and an anchor`, problems)
}

{
  const { page, problems } = await open('', 1280)
  const readme = /^## Example$[^]*?^```js\n([^]*?)^```$/m.exec(readFileSync(join(root, 'README.md'), 'utf8'))
  const shown = await page.locator('.language-js pre code').first().textContent()
  check('the first example is that of README, byte for byte', `${shown.trimEnd()}\n` === readme[1] ? [] : [shown])
  await page.keyboard.press('Control+k')
  await page.locator('.VPLocalSearchBox input').fill('recvFd')
  const result = page.locator('.VPLocalSearchBox .result', { hasText: 'recvFd' }).first()
  await result.waitFor({ timeout: 10_000 }).catch(() => problems.push('the search has no result'))
  await result.click().catch((error) => problems.push(error.message))
  await page.waitForURL(/#/, { timeout: 10_000 }).catch(() => problems.push('the result leads nowhere'))
  const text = await page.locator('.vp-doc').first().textContent()
  if (!text.includes('recvFd')) problems.push(`${page.url()} does not have recvFd`)
  check('the search finds recvFd', problems)
  await page.close()
}

{
  const { page, problems } = await open('guide/passing.html', 1280, 'dark')
  const dark = await page.evaluate(luminance)
  await page.locator('.VPSwitchAppearance:visible').first().click()
  const light = await page.evaluate(luminance)
  if (!(dark < 200 && light > 600))
    problems.push(`the background's sum is ${dark} in the dark and ${light} in the light`)
  check('the dark mode follows the system, and the switch changes it', problems)
  await page.close()
}

if (values.pictures !== undefined) {
  mkdirSync(values.pictures, { recursive: true })
  for (const path of SHOWN) {
    for (const [width, scheme] of WIDTHS.flatMap((each) => [
      [each, 'light'],
      [each, 'dark']
    ])) {
      const { page } = await open(path, width, scheme)
      const name = `${path.replaceAll('/', '-').replace('.html', '') || 'home'}-${width}-${scheme}.png`
      await page.screenshot({ path: join(values.pictures, name) })
      for (const [index, diagram] of (await page.locator('.diagram').all()).entries())
        await diagram.screenshot({ path: join(values.pictures, `diagram-${index}-${name}`) })
      await page.close()
    }
  }
}

await browser.close()
server.close()
console.log(`${passed} passed, ${failed} failed`)
process.exit(failed === 0 && passed > 0 ? 0 : 1)
