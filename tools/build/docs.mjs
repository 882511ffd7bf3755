// Makes docs/ from the doc comments of what the entry points export; with --check tells whether it is
// current.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { entryPoints, root } from '../run.mjs'

const docs = join(root, 'docs')

/** The references of `fdpass/…`, and with api.md that of `fdpass`. */
const jobs = Object.keys(entryPoints).filter((name) => name !== 'index')
const files = ['api.md', ...jobs.map((job) => `${job}.md`)]

/** Makes the reference in a folder; false where typedoc found something undocumented or amiss, and has said what. */
function make(folder) {
  const args = ['run', '--silent', '--workspace', 'tools/build/docs', 'build', '--', '--out', folder]
  if (spawnSync('npm', args, { cwd: root, stdio: 'inherit' }).status !== 0) return false
  // typedoc makes a file for each entry point, and api.md with no more than their names.
  const [api, index] = ['api.md', 'index.md'].map((name) => join(folder, name))
  writeFileSync(api, readFileSync(index, 'utf8').replace(/^# index$/m, '# API reference'))
  const paths = jobs.map((job) => join(folder, `${job}.md`))
  for (const [place, path] of paths.entries()) {
    const text = readFileSync(path, 'utf8').replaceAll('(index.md', '(api.md')
    writeFileSync(path, text.replace(new RegExp(`^# ${jobs[place]}$`, 'm'), `# fdpass/${jobs[place]}`))
  }
  rmSync(index)
  // The tables' widths have changed with the links.
  const prettier = ['prettier', '--config', '.prettierrc.json', '--log-level', 'warn', '--write', ...paths]
  return spawnSync('npx', prettier, { cwd: root, stdio: 'inherit' }).status === 0
}

/** Whether the reference is what the doc comments give now; says so where it is not. */
function isCurrent() {
  const folder = mkdtempSync(join(tmpdir(), 'fdpass-docs-'))
  try {
    if (!make(folder)) return false
    const same = (name) =>
      existsSync(join(docs, name)) &&
      readFileSync(join(docs, name), 'utf8') === readFileSync(join(folder, name), 'utf8')
    if (files.every(same)) return true
    console.error('docs/ is not what the doc comments say now: run `npm run docs`, and commit it with them.')
    return false
  } finally {
    rmSync(folder, { recursive: true })
  }
}

process.exit((process.argv.includes('--check') ? isCurrent() : make(docs)) ? 0 : 1)
