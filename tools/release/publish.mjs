// Publishes npm/PLATFORM, npm/fdpass and packages/usocket with the version of a tag: `npm run release:publish -- [--dry-run] v1.2.3`.
// The packages with the binaries are first, so that fdpass is never published without them. If one package is missing or has another
// version, nothing is published.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from '../run.mjs'

const { values: options, positionals } = parseArgs({
  options: { 'dry-run': { type: 'boolean' }, registry: { type: 'string' } },
  allowPositionals: true
})
const [tag] = positionals
const read = (folder) => JSON.parse(readFileSync(join(root, folder, 'package.json'), 'utf8'))

/** Ends the program before anything is published. */
function refuse(reason) {
  console.error(`Nothing is published: ${reason}`)
  process.exit(1)
}

const { version, repository } = read('.')
if (tag !== `v${version}`) refuse(`the tag is ${tag}, but package.json has version ${version}`)
const provenance = process.env.GITHUB_ACTIONS !== undefined && !options['dry-run']
if (provenance && repository === undefined) refuse('package.json names no repository, which the provenance needs')
if (!existsSync(join(root, 'npm', 'fdpass', 'package.json'))) refuse('npm/fdpass is missing')
const { optionalDependencies } = read(join('npm', 'fdpass'))
const platforms = Object.keys(optionalDependencies).map((name) => join('npm', name.replace(/^fdpass-/, '')))
const folders = [...platforms, join('npm', 'fdpass'), join('packages', 'usocket')]
for (const folder of folders) {
  if (!existsSync(join(root, folder, 'package.json'))) refuse(`${folder} is missing`)
  const description = read(folder)
  if (description.version !== version) refuse(`${folder} has version ${description.version}, not ${version}`)
  const { main = 'package.json' } = description
  if (!existsSync(join(root, folder, main))) refuse(`${folder} lacks ${main}`)
  const scripts = Object.keys(description.scripts ?? {})
  if (scripts.length > 0) refuse(`${folder} has scripts: ${scripts.join(', ')}`)
}

for (const folder of folders) {
  const args = ['publish', '--access', 'public', '--ignore-scripts']
  if (options['dry-run']) args.push('--dry-run')
  if (provenance) args.push('--provenance')
  if (options.registry !== undefined) args.push('--registry', options.registry)
  const { status } = spawnSync('npm', args, { cwd: join(root, folder), stdio: 'inherit' })
  // The packages published before are harmless: users install them only through fdpass.
  if (status !== 0) process.exit(status ?? 1)
}
console.log(`${folders.length} packages of version ${version}${options['dry-run'] ? ' (dry run)' : ''}`)
