// Builds the npm package as it is published, in npm/fdpass: `npm run build:package`.
//
// The project's package.json does not name the packages with the binaries. They have the same version, so before a release no registry has
// them, and no lock file can contain their hashes. Here they become optionalDependencies. Keys that only the project needs are
// removed. The JavaScript is minified, which makes the package a third smaller.
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { parseTriple } from '@napi-rs/cli'
import { minify } from 'terser'
import { digestOfNativeSources, root } from '../run.mjs'
import { bundle } from './bundle.mjs'

if (spawnSync(process.execPath, ['tools/build/setup.mjs'], { cwd: root, stdio: ['ignore', 2, 2] }).status !== 0)
  process.exit(1)

const description = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const { name, version, napi } = description
for (const key of ['ava', 'devDependencies', 'napi', 'overrides', 'scripts', 'workspaces']) delete description[key]
description.files.push('binding.d.cts.gz')
description.optionalDependencies = Object.fromEntries(
  napi.targets.map((triple) => [`${napi.packageName}-${parseTriple(triple).platformArchABI}`, version])
)

// `npm run setup` compares this where it installs the published binary.
description.nativeSources = digestOfNativeSources()

const folder = join(root, 'npm', name)
rmSync(folder, { recursive: true, force: true })
const [{ files }] = JSON.parse(
  execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { cwd: root, encoding: 'utf8' })
)
for (const { path } of files) {
  if (path.startsWith('dist/')) continue
  mkdirSync(dirname(join(folder, path)), { recursive: true })
  cpSync(join(root, path), join(folder, path))
}
await bundle(join(folder, 'dist'))
// The declarations keep their comments. Functions and classes keep their names, for stack traces: esbuild would call Object.defineProperty for
// each while the package is imported.
for (const path of readdirSync(folder, { recursive: true })) {
  if (!/\.c?js$/.test(path)) continue
  const { code } = await minify(readFileSync(join(folder, path), 'utf8'), {
    module: path.endsWith('.js'),
    ecma: 2022,
    keep_fnames: true,
    keep_classnames: true,
    format: { max_line_len: 120 } // an uncaught error prints its line
  })
  writeFileSync(join(folder, path), code)
}
// npm and man read compressed pages: this saves 12 KB.
const page = join(folder, description.man)
writeFileSync(`${page}.gz`, gzipSync(readFileSync(page), { level: 9 }))
rmSync(page)
description.man += '.gz'
// Only tools/build/prebuilt.mjs reads the declarations of the binary: they are stored without comments, in 2 KB.
const declarations = readFileSync(join(root, 'binding.d.cts'), 'utf8')
writeFileSync(join(folder, 'binding.d.cts.gz'), gzipSync(declarations.replaceAll(/\/\*[^]*?\*\//g, ''), { level: 9 }))
writeFileSync(join(folder, 'package.json'), `${JSON.stringify(description, null, 2)}\n`)
console.log(join('npm', name))
