// Installs the native binary that was published with this version of `fdpass`, for machines without Rust. `npm run setup` runs it.
//
// The published package contains the loader (binding.cjs) and its declarations (binding.d.cts.gz), and npm chooses the package with the
// binary for this platform. All three are copied to where a build from source puts them.
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { digestOfNativeSources, root } from '../run.mjs'

/** Ends the program with a message and the way out. */
function fail(message) {
  console.error(`fdpass: ${message}`)
  console.error('fdpass: install Rust 1.88 or later (https://rustup.rs), and run `npm run setup` again.')
  process.exit(1)
}

const { name, version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const folder = join(root, 'node_modules', '.fdpass', 'prebuilt')
mkdirSync(folder, { recursive: true })
writeFileSync(join(folder, 'package.json'), '{ "private": true }\n')
const args = ['install', '--no-save', '--no-audit', '--no-fund', '--ignore-scripts', `${name}@${version}`]
const { status } = spawnSync('npm', args, { cwd: folder, stdio: ['ignore', 2, 2] })
if (status !== 0) fail(`npm could not install the binary that was published with version ${version}.`)

const packages = join(folder, 'node_modules')
const published = join(packages, name)
const [loader, declarations] = ['binding.cjs', 'binding.d.cts.gz'].map((file) => join(published, file))
if (!existsSync(declarations)) fail(`${name} ${version} was published without the declarations of the native binary.`)
const binaries = readdirSync(packages)
  .filter((folderName) => folderName.startsWith(`${name}-`))
  .flatMap((folderName) => readdirSync(join(packages, folderName)).map((file) => join(packages, folderName, file)))
  .filter((path) => path.endsWith('.node'))
if (binaries.length === 0) fail(`version ${version} has no prebuilt binary for ${process.platform} ${process.arch}.`)
for (const path of [loader, ...binaries]) copyFileSync(path, join(root, basename(path)))
// Unchanged declarations keep their time, so that nothing is compiled again.
const unpacked = gunzipSync(readFileSync(declarations))
const target = join(root, 'binding.d.cts')
if (!existsSync(target) || !readFileSync(target).equals(unpacked)) writeFileSync(target, unpacked)

const { nativeSources } = JSON.parse(readFileSync(join(published, 'package.json'), 'utf8'))
console.error(`fdpass: cargo is not used. The native binary is the one published with version ${version}.`)
if (nativeSources !== digestOfNativeSources()) {
  console.error(
    `fdpass: crates/ has changed since version ${version} was published. What needs these changes does not compile or fails its tests.`
  )
}
