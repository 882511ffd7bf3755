// The documentation site: README, docs/, the reference that typedoc makes, and the documents at the top of the project, by VitePress.
//
//   npm run docs:dev      serves the site, and follows changes
//   npm run docs:build    writes build/site/.vitepress/dist. SITE_BASE is the path at which it is served (default '/')
//
// The documents are written for GitHub. This program copies them to build/site, and rewrites their links there.
import { execFileSync, spawnSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  watch,
  writeFileSync
} from 'node:fs'
import { basename, dirname, extname, join, posix } from 'node:path'
import { fileURLToPath } from 'node:url'
import { entryPoints, root } from '../../run.mjs'

const FENCE = '```'
const here = dirname(fileURLToPath(import.meta.url))
export const folder = join(root, 'build', 'site')
const read = (path) => readFileSync(join(root, path), 'utf8')
const { description } = JSON.parse(read('package.json'))

/** Returns the title of a document: its first heading. */
const titleOf = (source) => /^# (.*)$/m.exec(read(source))[1].replaceAll('`', '')
const inFolder = (path) =>
  readdirSync(join(root, path))
    .filter((name) => name.endsWith('.md'))
    .map((name) => `${path}/${name}`)

/** Returns a function that describes the page of a source; `path` returns its path on the site. */
const page = (path) => (source) => ({ source, path: path(source), text: titleOf(source) })

/** Returns the sections of the site: the pages of each, by their sources. The order of the guides is that of the table in README. */
function sections() {
  const guides = [...read('README.md').matchAll(/\[([^\]]+)\]\((docs\/[\w/-]+\.md)\) +\|$/gm)]
  const below = page((source) => source.replace(/^docs\//, ''))
  const named = (path) => page(() => path)
  return [
    { text: 'Guides', pages: guides.map(([, text, source]) => ({ ...below(source), text })) },
    {
      text: 'Reference',
      pages: Object.keys(entryPoints).map((name) => {
        const module = name === 'index' ? 'fdpass' : `fdpass/${name}`
        return { ...below(`docs/reference/${module}.md`), text: module }
      })
    },
    {
      text: 'Internals',
      pages: [
        named('architecture.md')('ARCHITECTURE.md'),
        ...inFolder('docs/internals').map(below),
        named('protocol.md')('PROTOCOL.md')
      ]
    },
    {
      text: 'Proof',
      pages: [
        named('security.md')('SECURITY.md'),
        ...inFolder('docs/proof').map(below),
        named('bench/results.md')('bench/RESULTS.md')
      ]
    },
    {
      text: 'Project',
      pages: [
        named('changelog.md')('CHANGELOG.md'),
        named('contributing.md')('CONTRIBUTING.md'),
        named('tools.md')('tools/README.md'),
        named('bench/index.md')('bench/README.md'),
        named('usocket.md')('packages/usocket/README.md'),
        named('code-of-conduct.md')('CODE_OF_CONDUCT.md')
      ]
    }
  ]
}

/** Returns the anchor that a heading has on GitHub. */
function slugify(heading) {
  return heading
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-')
}

/** What the last copy has written. */
let written = new Set()

/** The copy of the documents in build/site. */
class Copy {
  /** The path of each source on the site. */
  #paths = new Map([['README.md', 'index.md']])
  #written = new Set()

  write() {
    const pages = sections().flatMap((section) => section.pages)
    for (const { source, path } of pages) this.#paths.set(source, path)
    this.#save('index.md', this.#home())
    for (const { source, path } of pages) this.#save(path, this.#linked(read(source), source))
    // VitePress would bundle what this file imports: it runs in the process of this program.
    this.#save('.vitepress/config.mjs', 'export default globalThis.fdpassSite()\n')
    this.#save('.vitepress/theme/index.mjs', `export { default } from ${JSON.stringify(join(here, 'theme.mjs'))}\n`)
    for (const path of written) if (!this.#written.has(path)) rmSync(join(folder, path))
    written = this.#written
  }

  #home() {
    const readme = read('README.md')
    const [, tagline] = /^# .*\n\n(.*)$/m.exec(readme)
    const [introduction, ...rest] = readme.split(/^(?=## )/m)
    const text = introduction.replace(/^# .*\n\n.*\n/, '')
    return `---
layout: home
hero:
  name: fdpass
  tagline: ${JSON.stringify(tagline)}
  actions:
    - { theme: brand, text: Example, link: '#example' }
    - { theme: alt, text: Guides, link: /guide/passing }
    - { theme: alt, text: Reference, link: /reference/fdpass }
---
${this.#linked(text + rest.join(''), 'README.md')}`
  }

  /** Returns a text with links to pages of the site. */
  #linked(text, source) {
    const parts = text.split(/(^ *```[^]*?^ *```$|`[^`\n]*`)/m)
    const link = (whole, bang, target) => {
      const [path, anchor] = target.split('#')
      if (path === '' || /^[a-z]+:/.test(target)) return whole
      const other = posix.normalize(posix.join(posix.dirname(source), path))
      const url = bang === '!' ? this.#asset(other) : this.#page(other.replace(/\/$/, '').replace(/^\.$/, 'README.md'))
      return `${bang}](${url}${anchor === undefined ? '' : `#${anchor}`})`
    }
    const rewrite = (part) =>
      part
        .replaceAll(
          /!\[([^\]]*)\]\(([^)\s]+)\)/g,
          (whole, alt, target) => `![${alt}${link(whole, '!', target).slice(1)}`
        )
        .replaceAll(/(?<!!\[[^\]]*)\]\(([^)\s]+)\)/g, (whole, target) => link(whole, '', target))
    return parts.map((part, place) => (place % 2 === 0 ? rewrite(part) : part)).join('')
  }

  /** Returns the address of a document, or of a page that shows a source file or lists a folder. */
  #page(source) {
    if (!this.#paths.has(source)) {
      const path = `source/${source.replaceAll(/(?<=^|\/)\./g, '')}.md`
      this.#paths.set(source, path)
      this.#save(path, statSync(join(root, source)).isDirectory() ? this.#listing(source) : this.#code(source))
    }
    return `/${this.#paths.get(source)}`
  }

  #code(source) {
    return `# ${basename(source)}\n\n${FENCE}${extname(source).slice(1).replace('mjs', 'js') || 'text'}\n${read(source)}${FENCE}\n`
  }

  #listing(source) {
    const files = execFileSync('git', ['ls-files', source], { cwd: root, encoding: 'utf8' }).trimEnd().split('\n')
    const items = files.map((path) => `- [${path}](${this.#page(path)})`)
    return `# ${source}\n\n${items.join('\n')}\n`
  }

  #asset(source) {
    const path = join('public', source)
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    copyFileSync(join(root, source), join(folder, path))
    this.#written.add(path)
    return `/${source}`
  }

  #save(path, text) {
    this.#written.add(path)
    const file = join(folder, path)
    if (existsSync(file) && readFileSync(file, 'utf8') === text) return // the server would reload the page
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, text)
  }
}

/** Returns VitePress's configuration. */
function config() {
  const menu = sections().map(({ text, pages }, index) => ({
    text,
    collapsed: index > 1,
    items: pages.map((each) => ({ text: each.text, link: `/${each.path.replace(/(?:index)?\.md$/, '')}` }))
  }))
  const first = (index) => menu[index].items[0].link
  return {
    title: 'fdpass',
    description,
    lang: 'en',
    base: process.env.SITE_BASE ?? '/',
    cacheDir: join(here, 'node_modules', '.cache'),
    head: [
      ['style', {}, style],
      ['link', { rel: 'icon', href: `data:image/svg+xml,${encodeURIComponent(icon)}` }]
    ],
    markdown: {
      anchor: { slugify },
      config(md) {
        const { fence } = md.renderer.rules
        md.renderer.rules.fence = (tokens, index, ...rest) => {
          const { info, content } = tokens[index]
          if (info.trim() !== 'mermaid') return fence(tokens, index, ...rest)
          return `<Mermaid source="${encodeURIComponent(content).replaceAll("'", '%27')}" />`
        }
      }
    },
    themeConfig: {
      nav: [
        { text: 'Guides', link: first(0), activeMatch: '^/guide/' },
        { text: 'Reference', link: first(1), activeMatch: '^/reference/' },
        { text: 'Errors', link: '/errors' },
        { text: 'Internals', link: first(2), activeMatch: '^/(?:internals|architecture|protocol)' }
      ],
      sidebar: menu,
      outline: [2, 3],
      search: { provider: 'local', options: { detailedView: 'auto' } },
      externalLinkIcon: true
    },
    vite: { server: { fs: { allow: [root] } } }
  }
}

const icon =
  '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#3451b2"/>' +
  '<path d="M3 8h8M8 4l4 4-4 4" fill="none" stroke="#fff" stroke-width="2"/></svg>'

const style = `
.vp-doc :not(pre) > code { overflow-wrap: anywhere; }
.vp-doc table code { overflow-wrap: normal; }
.vp-doc [class*=language-text] pre { white-space: pre-wrap; }
.vp-doc pre:not([class]) { padding: 20px 24px; border-radius: 8px; overflow-x: auto; background: var(--vp-code-block-bg); }
.vp-doc pre:not([class]) code { padding: 0; font-size: var(--vp-code-font-size); line-height: var(--vp-code-line-height);
  background: none; color: var(--vp-code-block-color); overflow-wrap: normal; }
.vp-doc td { min-width: 8em; }
.vp-doc .diagram { margin: 24px 0; overflow-x: auto; }
.vp-doc .diagram.drawn svg { display: block; min-width: 560px; margin: 0 auto; }
`

/** Runs npm, and exits if it fails. */
function run(args, cwd) {
  const { status } = spawnSync('npm', args, { cwd, stdio: ['ignore', 2, 2] })
  if (status !== 0) process.exit(status ?? 1)
}

/** Installs VitePress where it is missing or older than the lock file, and generates the reference. */
function prepare() {
  const installed = statSync(join(here, 'node_modules', '.package-lock.json'), { throwIfNoEntry: false })
  if (installed === undefined || installed.mtimeMs < statSync(join(here, 'package-lock.json')).mtimeMs) {
    run(['ci', '--no-audit', '--no-fund'], here)
  }
  run(['run', '--silent', 'setup'], root)
  run(['run', '--silent', '--workspace', 'tools/build/docs', 'build'], root)
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  // The server resolves what VitePress imports from here.
  symlinkSync(join(here, 'node_modules'), join(folder, 'node_modules'))
  new Copy().write()
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [command] = process.argv.slice(2)
  if (command !== 'dev' && command !== 'build') {
    console.error('Usage: node tools/build/site/site.mjs dev|build')
    process.exit(2)
  }
  prepare()
  globalThis.fdpassSite = config
  const { build, createServer } = await import('vitepress')
  if (command === 'build') await build(folder)
  else {
    const server = await createServer(folder)
    await server.listen()
    server.printUrls()
    let timer
    for (const path of ['docs', 'README.md', 'ARCHITECTURE.md', 'PROTOCOL.md']) {
      watch(join(root, path), { recursive: path === 'docs' }, () => {
        clearTimeout(timer)
        timer = setTimeout(() => new Copy().write(), 100)
      })
    }
  }
}
