import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import test from 'ava'
import { temporaryFolder } from '../helpers/descriptors.ts'

const cases = resolve('__test__/types')
const require = createRequire(join(cases, 'package.json'))

const packageOf = (name: string, from = require) => {
  const path = from.resolve(`${name}/package.json`)
  return { folder: dirname(path), version: (from(path) as { version: string }).version }
}

const ours = packageOf('typescript', createRequire(resolve('package.json')))
const oldest = packageOf('typescript')
const nodes = ['types-node-20', 'types-node-22', 'types-node-24', 'types-node-26'].map((name) => packageOf(name))

const options = {
  module: 'NodeNext',
  target: 'ES2022',
  lib: ['ES2022', 'ESNext.Disposable'],
  types: ['node'],
  strict: true,
  skipLibCheck: false,
  allowImportingTsExtensions: true,
  noEmit: true
}

/** A program that has installed the package, and the declarations of a Node. */
function consumer(typesOfNode: string) {
  const folder = temporaryFolder()
  const installed = join(folder, 'node_modules', 'fdpass')
  for (const name of ['package.json', 'dist', 'binding.d.cts']) cpSync(name, join(installed, name), { recursive: true })
  mkdirSync(join(folder, 'node_modules', '@types'))
  symlinkSync(typesOfNode, join(folder, 'node_modules', '@types', 'node'))
  cpSync(cases, folder, { recursive: true, filter: (path) => path === cases || /\.c?ts$/.test(path) })
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ type: 'module' }))
  return folder
}

function compile(typescript: string, folder: string, include: string[], exactOptionalPropertyTypes: boolean) {
  const compilerOptions = { ...options, exactOptionalPropertyTypes }
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, include }))
  const args = [join(typescript, 'bin', 'tsc'), '--pretty', 'false', '-p', folder]
  return spawnSync(process.execPath, args, { cwd: folder, encoding: 'utf8' })
}

for (const { folder: typesOfNode, version } of nodes) {
  const folder = consumer(typesOfNode)
  for (const exact of [true, false]) {
    const optional = exact ? 'exact' : 'loose'
    test(`TypeScript ${ours.version} accepts right calls and rejects wrong ones, with @types/node ${version} and ${optional} optional properties`, (t) => {
      const { stdout, status } = compile(ours.folder, folder, ['*.ts', '*.cts'], exact)
      t.deepEqual({ stdout, status }, { stdout: '', status: 0 })
    })
  }

  // Before 5.8 TypeScript lets no CommonJS module require an ES module, as Node before 20.19 did not.
  test(`TypeScript ${oldest.version} accepts right calls and rejects wrong ones, with @types/node ${version} and exact optional properties`, (t) => {
    const { stdout, status } = compile(oldest.folder, folder, ['*.ts'], true)
    t.deepEqual({ stdout, status }, { stdout: '', status: 0 })
  })
}
