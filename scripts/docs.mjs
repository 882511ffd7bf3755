// Makes docs/api.md from the doc comments of what index.ts exports; with --check tells whether it is current.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { root } from './run.mjs'

const docs = join(root, 'docs')

/** Makes the reference in a folder; false where typedoc found something undocumented or amiss, and has said what. */
function make(folder) {
  const args = ['run', '--silent', '--workspace', 'scripts/docs', 'build', '--', '--out', folder]
  return spawnSync('npm', args, { cwd: root, stdio: 'inherit' }).status === 0
}

/** Whether the reference is what the doc comments give now; says so where it is not. */
function isCurrent() {
  const folder = mkdtempSync(join(tmpdir(), 'fdpass-docs-'))
  try {
    if (!make(folder)) return false
    const [now, made] = [join(docs, 'api.md'), join(folder, 'api.md')]
    if (existsSync(now) && readFileSync(now, 'utf8') === readFileSync(made, 'utf8')) return true
    console.error('docs/api.md is not what the doc comments say now: run `npm run docs`, and commit it with them.')
    return false
  } finally {
    rmSync(folder, { recursive: true })
  }
}

process.exit((process.argv.includes('--check') ? isCurrent() : make(docs)) ? 0 : 1)
