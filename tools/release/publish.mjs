// Publishes npm/PLATFORM, npm/fdpass and packages/usocket with the version of a tag:
// `npm run release:publish -- --repository URL [--registry URL] [--from FOLDER] [--dry-run] v1.2.3`.
// The packages with the binaries are first, so that fdpass is never published without them. If one package is missing or has another
// version, nothing is published. Each names the repository, its issues and its README: npm compares the provenance with it.
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from '../run.mjs'

const { values: options, positionals } = parseArgs({
  options: {
    repository: { type: 'string' },
    registry: { type: 'string' },
    from: { type: 'string', default: join(root, 'npm') }, // where the packages are
    'dry-run': { type: 'boolean', default: false }
  },
  allowPositionals: true
})
const [tag] = positionals
const read = (folder) => JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))

/** Ends the program before anything is published. */
function refuse(reason) {
  console.error(`Nothing is published: ${reason}`)
  process.exit(1)
}

const { version } = read(root)
if (tag !== `v${version}`) refuse(`the tag is ${tag}, but package.json has version ${version}`)
const address = options.repository?.replace(/\/$/, '')
if (!URL.canParse(address) || new URL(address).protocol !== 'https:')
  refuse('--repository must be the https address of the repository')
if (!readFileSync(join(root, 'CHANGELOG.md'), 'utf8').includes(`\n## [${version}]`))
  refuse(`CHANGELOG.md has no section [${version}]`)
const main = join(resolve(options.from), 'fdpass')
if (!existsSync(join(main, 'package.json'))) refuse(`${main} is missing`)
const platforms = Object.keys(read(main).optionalDependencies).map((name) => name.replace(/^fdpass-/, ''))
const folders = [
  ...platforms.map((platform) => join(resolve(options.from), platform)),
  main,
  join(root, 'packages/usocket')
]
for (const folder of folders) {
  if (!existsSync(join(folder, 'package.json'))) refuse(`${folder} is missing`)
  const description = read(folder)
  if (description.version !== version) refuse(`${folder} has version ${description.version}, not ${version}`)
  const { main: file = 'package.json' } = description
  if (!existsSync(join(folder, file))) refuse(`${folder} lacks ${file}`)
  const scripts = Object.keys(description.scripts ?? {})
  if (scripts.length > 0) refuse(`${folder} has scripts: ${scripts.join(', ')}`)
}

const args = ['publish', '--access', 'public', '--ignore-scripts']
if (options['dry-run']) args.push('--dry-run')
else if (process.env.GITHUB_ACTIONS !== undefined) args.push('--provenance')
if (options.registry !== undefined) args.push('--registry', options.registry)
const work = mkdtempSync(join(tmpdir(), 'fdpass-publish-'))
try {
  for (const folder of folders) {
    const copy = join(work, 'package')
    cpSync(folder, copy, { recursive: true })
    const description = {
      ...read(folder),
      homepage: `${address}#readme`,
      bugs: { url: `${address}/issues` },
      repository: { type: 'git', url: `git+${address}.git` }
    }
    writeFileSync(join(copy, 'package.json'), `${JSON.stringify(description, null, 2)}\n`)
    const { status } = spawnSync('npm', args, { cwd: copy, stdio: 'inherit' })
    // The packages published before are harmless: users install them only through fdpass.
    if (status !== 0) throw new Error(`npm publish failed for ${folder}`)
    rmSync(copy, { recursive: true })
  }
} finally {
  rmSync(work, { recursive: true })
}
console.log(`${folders.length} packages of version ${version}${options['dry-run'] ? ' (dry run)' : ''}`)
