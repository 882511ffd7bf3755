// Tests what users install: packs everything as a release does, publishes it to a local registry, and installs it from there into empty
// folders, with a PATH that contains node, npm and sh only:
//
//   npm run test:package [-- --runtimes node@20,node@22,node@24,node@26] [--all]
//
// With --all, the installed package also runs all examples of README and the guides on each runtime, those of the command line's help, and an
// unmodified express server with reloads under load on each version of Node: some ten minutes more. It needs npm's registry for its tools, and
// for the versions of Node. It prints the import time, and fails only far above the bar.
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import {
  appendFileSync,
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, before, test } from 'node:test'
import { parseArgs } from 'node:util'
import { gunzipSync } from 'node:zlib'
import { NapiCli } from '@napi-rs/cli'
import { build } from 'esbuild'
import { install, installRuntime } from './install.mjs'
import { startRegistry } from './registry.mjs'
import { root } from '../run.mjs'

const SIZE = 1_300_000
const IMPORT_TIME = 15
const IMPORTS = 40
const platform = 'linux-x64-gnu'

const { values: options } = parseArgs({
  options: {
    runtimes: { type: 'string', default: 'node@20,node@22,node@24,node@26' },
    all: { type: 'boolean', default: false }
  }
})
const work = mkdtempSync(join(realpathSync(tmpdir()), 'fdpass-package-'))
chmodSync(work, 0o755) // an example runs workers as another user
const home = join(work, 'home')
const clean = join(work, 'clean')
const packages = join(work, 'npm')
const repository = 'https://example.org/fdpass'
const tag = `v${JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).version}`
const nodes = new Map([[process.version, process.execPath]])
let registry

/** Returns the path of a program. */
function which(name) {
  return execFileSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).trim()
}

/** Returns an environment with a home and a PATH of node, npm and sh. */
function environment(node = process.execPath, more = {}) {
  const bin = mkdtempSync(join(work, 'bin-'))
  symlinkSync(realpathSync(node), join(bin, 'node'))
  for (const name of ['npm', 'npx', 'sh']) symlinkSync(realpathSync(which(name)), join(bin, name))
  return { PATH: bin, HOME: home, ...more }
}

/** Runs a program to its end; returns its exit code and its output. */
function run(command, args, { cwd = clean, env = environment() } = {}) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd, env, encoding: 'utf8', timeout: 300_000 })
  if (error !== undefined) throw error
  return { status, stdout, stderr }
}

/** Runs a program that has to succeed; returns its standard output. */
function execute(...args) {
  const { status, stdout, stderr } = run(...args)
  assert.equal(status, 0, `${args[0]} ${args[1].join(' ')}: ${stdout}${stderr}`)
  return stdout
}

/** Publishes the packages to the local registry, as the release does. */
function publish(...args) {
  const script = join(root, 'tools/release/publish.mjs')
  return run('node', [script, '--registry', registry.address, '--from', packages, ...args], { cwd: work })
}

/** Creates a folder for a program, with a package.json; returns its path. */
function project(name, description = {}) {
  const folder = join(work, name)
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ private: true, ...description }))
  return folder
}

/** Returns the median. */
function median(numbers) {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]
}

/** Returns the paths of all files below a folder. */
function files(folder) {
  return readdirSync(folder, { recursive: true })
    .map((name) => join(folder, name))
    .filter((path) => statSync(path).isFile())
}

/** Runs README's example, and compares its output with README's. */
function runExample(cwd, { command = 'node example.mjs', env = environment() } = {}) {
  const section = readFileSync(join(root, 'README.md'), 'utf8')
    .split(/^## /m)
    .find((text) => text.startsWith('Example\n'))
  for (const [, text, name] of section.matchAll(/```js\n(\/\/ ([\w-]+\.mjs)[^]*?)```/g)) {
    writeFileSync(join(cwd, name), text)
  }
  const [, commands] = /```sh\n([^]*?)```/.exec(section)
  const [, printed] = /```text\n([^]*?)```/.exec(section)
  const result = run('sh', ['-ec', commands.replace('node example.mjs', command)], { cwd, env })
  assert.deepEqual(result, { status: 0, stdout: printed, stderr: '' })
}

/** A module that opens a file through a broker. The broker's helper is a program in the package. */
const broker = `
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { startBroker } from 'fdpass/broker'
mkdirSync('shown', { recursive: true })
writeFileSync('shown/file', 'opened')
const broker = await startBroker({ roots: ['shown'] })
const file = await broker.open('file')
console.log(readFileSync(file.fd, 'utf8'))
file.closeSync()
broker.close()
`

/** A module that passes a file to itself, without another process. */
const passing = `
import { closeSync, openSync, readFileSync } from 'node:fs'
import { recvFd, sendFd, socketpair } from 'fdpass'
const [one, other] = socketpair()
const file = openSync(process.argv[1], 'r')
await sendFd(one, file)
closeSync(file)
const { fd } = await recvFd(other)
console.log(readFileSync(fd.fd, 'utf8').length)
fd.closeSync()
one.close()
other.close()
`

before(async () => {
  for (const name of options.runtimes.split(',').filter(Boolean)) {
    try {
      const executable = installRuntime(name, 'node')
      nodes.set(execFileSync(executable, ['--version'], { encoding: 'utf8' }).trim(), executable)
    } catch (error) {
      console.log(`# ${error.message}`)
    }
  }
  execFileSync(process.execPath, ['tools/release/package.mjs'], { cwd: root, stdio: ['ignore', 2, 2] })
  const made = join(root, 'target', 'npm', 'packages') // napi-rs creates none outside the project
  await new NapiCli().createNpmDirs({ cwd: root, npmDir: made })
  cpSync(made, packages, { recursive: true })
  cpSync(join(root, 'npm', 'fdpass'), join(packages, 'fdpass'), { recursive: true })
  // Yarn needs the packages of all platforms. Those of other platforms have an empty file as their binary.
  for (const name of readdirSync(made)) {
    const { main } = JSON.parse(readFileSync(join(made, name, 'package.json'), 'utf8'))
    if (main.endsWith('.node')) writeFileSync(join(packages, name, main), '')
  }
  const released = join(root, 'npm', platform)
  const isReleased = existsSync(join(released, 'package.json'))
  if (isReleased) cpSync(released, join(packages, platform), { recursive: true })
  else cpSync(join(root, `fdpass.${platform}.node`), join(packages, platform, `fdpass.${platform}.node`))
  console.log(`# The binary was built by ${isReleased ? '`npm run build:release`' : '`npm run setup`'}`)
  for (const folder of [home, join(work, 'registry')]) mkdirSync(folder)
  registry = await startRegistry(join(work, 'registry'))
  writeFileSync(
    join(home, '.npmrc'),
    `registry=${registry.address}\n${registry.address.replace('http:', '')}:_authToken=none\naudit=false\nfund=false\nupdate-notifier=false\n`
  )
  const { status, stderr } = publish(tag, '--repository', repository)
  assert.equal(status, 0, stderr)
  project('clean')
  execute('npm', ['install', '--ignore-scripts', 'fdpass'])
})

after(async () => {
  await registry?.stop()
  rmSync(work, { recursive: true, force: true })
})

test('publint and are-the-types-wrong find nothing', async () => {
  const { publint } = await import(join(install('publint@^0.3'), 'node_modules/publint/src/index-node.js'))
  const { messages } = await publint({ pkgDir: join(root, 'npm', 'fdpass'), strict: true })
  assert.deepEqual(messages, [])
  const attw = join(install('@arethetypeswrong/cli@^0.18'), 'node_modules/.bin/attw')
  execute(attw, ['--pack', join(root, 'npm', 'fdpass'), '--profile', 'esm-only', '--format', 'ascii', '--no-color'], {
    env: process.env
  })
})

test('the published packages name their repository, its issues and its README', () => {
  for (const name of ['fdpass', `fdpass-${platform}`]) {
    const {
      homepage,
      bugs,
      repository: named
    } = JSON.parse(readFileSync(join(clean, 'node_modules', name, 'package.json'), 'utf8'))
    assert.deepEqual(
      { homepage, bugs, named },
      {
        homepage: `${repository}#readme`,
        bugs: { url: `${repository}/issues` },
        named: { type: 'git', url: `git+${repository}.git` }
      }
    )
  }
})

/** Checks that nothing is published, for a reason. */
function refused(reason, ...args) {
  const { status, stdout, stderr } = publish(...args)
  assert.deepEqual({ status, stdout }, { status: 1, stdout: '' })
  assert.match(stderr, reason)
}

test('nothing is published with another version, without a repository, or if a binary is missing', () => {
  refused(/^Nothing is published: the tag is v99\.0\.0, but/, 'v99.0.0', '--repository', repository)
  refused(/^Nothing is published: --repository must be the https address/, tag)
  refused(
    /^Nothing is published: --repository must be the https address/,
    tag,
    '--repository',
    'git@example.org:fdpass'
  )
  const binary = join(packages, 'darwin-arm64', 'fdpass.darwin-arm64.node')
  rmSync(binary)
  refused(/^Nothing is published: .*darwin-arm64 lacks fdpass\.darwin-arm64\.node\n$/, tag, '--repository', repository)
  writeFileSync(binary, '')
})

test('npm installs two packages of at most 1.3 MB together, without install scripts', (t) => {
  const names = readdirSync(join(clean, 'node_modules')).filter((name) => !name.startsWith('.'))
  assert.deepEqual(names, ['fdpass', `fdpass-${platform}`])
  const sizes = names.map((name) =>
    files(join(clean, 'node_modules', name)).reduce((sum, path) => sum + statSync(path).size, 0)
  )
  t.diagnostic(`bytes: ${names.map((name, index) => `${name} ${sizes[index]}`).join(', ')}`)
  assert.ok(sizes[0] + sizes[1] <= SIZE, `${sizes[0] + sizes[1]} bytes, more than ${SIZE}`)
  for (const name of names) {
    const description = JSON.parse(readFileSync(join(clean, 'node_modules', name, 'package.json'), 'utf8'))
    assert.equal(description.scripts, undefined)
    assert.equal(description.dependencies, undefined)
  }
  const gyp = files(clean).filter((path) => /gyp/i.test(path))
  assert.deepEqual(gyp, [])
})

test("README's example, and the command line, on each version of Node", async (t) => {
  for (const [version, node] of nodes) {
    await t.test(version, () => {
      runExample(clean, { env: environment(node) })
      const { version: own } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
      assert.match(
        execute('npx', ['fdpass', '--version'], { env: environment(node) }),
        new RegExp(own.replaceAll('.', '\\.'))
      )
      assert.equal(
        execute('npx', ['fdpass', 'cat', 'package.json'], { env: environment(node) }),
        readFileSync(join(clean, 'package.json'), 'utf8')
      )
    })
  }
})

const skipUnlessAll = { skip: options.all ? false : 'takes minutes: --all' }

/** Runs a program of this check-out that tests the installed package; it has to succeed. */
function check(node, args) {
  const env = { ...process.env, FDPASS_PACKAGE: join(clean, 'node_modules', 'fdpass') }
  const { status, stdout, stderr } = spawnSync(node, args, { cwd: root, env, encoding: 'utf8' })
  assert.equal(status, 0, `${stdout}${stderr}`)
  return stdout.trimEnd().split('\n').at(-1)
}

test('the examples of README and the guides, from the installed package, on each runtime', skipUnlessAll, (t) => {
  const needed = join(clean, 'node_modules', 'dbus-native') // the guide on D-Bus has its reader install it
  symlinkSync(join(root, 'node_modules', 'dbus-native'), needed)
  t.after(() => rmSync(needed))
  t.diagnostic(check(process.execPath, ['tools/check/runtimes.mjs', 'examples']))
})

test("the examples of the command line's help, from the installed package", skipUnlessAll, async (t) => {
  const args = ['node_modules/ava/entrypoints/cli.mjs', 'build/__test__/cli/examples.spec.js']
  for (const [version, node] of nodes) await t.test(version, () => void check(node, args))
})

test(
  'an unmodified express server is reloaded and replaced under load, by the installed package',
  skipUnlessAll,
  async (t) => {
    const args = ['tools/check/servers.mjs', 'express', 'restarts', '--package', join(clean, 'node_modules', 'fdpass')]
    for (const [version, node] of nodes) {
      await t.test(version, (subtest) => subtest.diagnostic(check(node, args)))
    }
  }
)

test("the command line contains commander, with commander's licence", () => {
  assert.ok(existsSync(join(clean, 'node_modules', 'fdpass', 'dist', 'lib', 'cli', 'commander.LICENSE')))
})

test('the manual page is where npm links it from', () => {
  const folder = join(clean, 'node_modules', 'fdpass')
  const { man } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  assert.match(man, /\.1\.gz$/)
  assert.deepEqual(gunzipSync(readFileSync(join(folder, man))), readFileSync(join(root, 'man', 'fdpass.1')))
})

test('import and require return the same module, without a warning', async (t) => {
  writeFileSync(
    join(clean, 'both.cjs'),
    `const required = require('fdpass')
     require('fdpass/broker')
     import('fdpass').then((imported) => console.log(imported.UnixSocket === required.UnixSocket, imported.isSupported))`
  )
  for (const [version, node] of nodes) {
    await t.test(version, () => {
      assert.deepEqual(run(node, ['both.cjs']), { status: 0, stdout: 'true true\n', stderr: '' })
    })
  }
})

test('functions and classes have the names by which they are exported: messages and stack traces show them', () => {
  const program = `
    const names = ['', '/broker', '/ipc', '/superserver', '/takeover', '/store', '/systemd', '/dbus', '/usocket']
    for (const name of names)
      for (const [key, value] of Object.entries(await import('fdpass' + name)))
        if (typeof value === 'function' && value.name !== key) console.log(key, value.name)`
  assert.equal(execute('node', ['--input-type=module', '-e', program]), '')
})

test('importing takes at most as long as starting Node', (t) => {
  const pinned = spawnSync('taskset', ['-c', '0', process.execPath, '-e', '0']).status === 0
  const measure = (args) => {
    const start = process.hrtime.bigint()
    const [command, ...rest] = [...(pinned ? ['taskset', '-c', '0'] : []), process.execPath, ...args]
    assert.equal(spawnSync(command, rest, { cwd: clean, stdio: 'ignore' }).status, 0)
    return Number(process.hrtime.bigint() - start) / 1e6
  }
  const bare = []
  const importing = []
  for (let turn = 0; turn < IMPORTS; turn++) {
    bare.push(measure(['-e', '0']))
    importing.push(measure(['--input-type=module', '-e', "import 'fdpass'"]))
  }
  const cost = median(importing) - median(bare)
  t.diagnostic(
    `${cost.toFixed(1)} ms over ${median(bare).toFixed(1)} ms of node -e 0 (${IMPORT_TIME} ms on a quiet machine)`
  )
  assert.ok(cost < Math.max(IMPORT_TIME, median(bare)), 'importing takes longer than starting Node')
})

test('without the package of the platform, importing works, and the first call names the missing package', () => {
  const folder = project('incomplete')
  cpSync(join(clean, 'node_modules', 'fdpass'), join(folder, 'node_modules', 'fdpass'), { recursive: true })
  const program = `
    import { isSupported, socketpair } from 'fdpass'
    try { socketpair() } catch ({ code, message }) { console.log(isSupported, code, message) }`
  const output = execute('node', ['--input-type=module', '-e', program], { cwd: folder })
  assert.match(output, /^false ERR_UNSUPPORTED_PLATFORM .*fdpass-linux-x64-gnu/)
})

test('on Windows importing works, and the first call reports that it is not supported', () => {
  const program = `
    Object.defineProperty(process, 'platform', { value: 'win32' })
    const { isSupported, socketpair } = await import('fdpass')
    try { socketpair() } catch ({ code, message }) { console.log(isSupported, code, message) }`
  const output = execute('node', ['--input-type=module', '-e', program])
  assert.match(output, /^false ERR_UNSUPPORTED_PLATFORM .*Windows/)
})

test('the package works in a path with spaces and non-ASCII letters', () => {
  const folder = project('Größe und Maß – 日本語 #%20')
  cpSync(join(clean, 'node_modules'), join(folder, 'node_modules'), { recursive: true, verbatimSymlinks: true })
  runExample(folder)
  assert.equal(execute('node', ['--input-type=module', '-e', broker], { cwd: folder }), 'opened\n')
})

const mounts = spawnSync('unshare', ['--mount', '--map-root-user', 'true']).status === 0
test('the package works on a read-only file system', { skip: mounts ? false : 'needs the right to mount' }, () => {
  const script = 'mount --bind . . && mount -o remount,bind,ro . && cd "$PWD" && ! touch new 2>/dev/null && exec "$@"'
  const args = ['--mount', '--map-root-user', 'sh', '-c', script, 'sh']
  const node = [process.execPath, '--input-type=module', '-e', passing, join(root, 'LICENSE')]
  const { size } = statSync(join(root, 'LICENSE'))
  assert.equal(execute('unshare', [...args, ...node], { env: { PATH: process.env.PATH } }), `${size}\n`)
})

test('the package works with --disallow-code-generation-from-strings', () => {
  runExample(clean, { env: environment(process.execPath, { NODE_OPTIONS: '--disallow-code-generation-from-strings' }) })
})

test("Node's permission model: it works with --allow-addons, and the error without it names the cause", async (t) => {
  writeFileSync(join(clean, 'passing.mjs'), passing)
  for (const [version, node] of nodes) {
    await t.test(version, () => {
      const permission = Number(version.slice(1, 3)) < 22 ? '--experimental-permission' : '--permission'
      const args = [permission, '--allow-fs-read=*', '--no-warnings']
      assert.match(execute(node, [...args, '--allow-addons', 'passing.mjs']), /^\d+\n$/)
      const { status, stderr } = run(node, [...args, 'passing.mjs'])
      assert.equal(status, 1)
      assert.match(stderr, /ERR_UNSUPPORTED_PLATFORM/)
      assert.match(stderr, /could not be loaded: Cannot load native addon because loading addons is disabled/)
    })
  }
})

test('TypeScript finds the declarations, from ECMAScript modules, CommonJS and for bundlers', () => {
  const program =
    "import { socketpair, type UnixSocket } from 'fdpass'\nexport const pair: [UnixSocket, UnixSocket] = socketpair()\n"
  for (const name of ['module.mts', 'commonjs.cts']) writeFileSync(join(clean, name), program)
  const tsc = join(root, 'node_modules', '.bin', 'tsc')
  const types = ['--types', 'node', '--typeRoots', join(root, 'node_modules', '@types')]
  for (const [module, ...names] of [
    ['nodenext', 'module.mts', 'commonjs.cts'],
    ['preserve', 'module.mts']
  ]) {
    execute(tsc, ['--strict', '--noEmit', '--target', 'es2022', '--module', module, ...types, ...names], {
      env: process.env
    })
  }
})

test("npm installs another platform's package, for images of that platform", () => {
  const folder = project('image')
  execute('npm', ['install', '--os=linux', '--cpu=arm64', '--libc=musl', 'fdpass'], { cwd: folder })
  assert.ok(existsSync(join(folder, 'node_modules', 'fdpass-linux-arm64-musl')))
  assert.ok(!existsSync(join(folder, 'node_modules', `fdpass-${platform}`)))
})

test('the package installs from two files, without a registry', () => {
  const folder = project('offline')
  const packed = ['fdpass', `fdpass-${platform}`].map((name) => {
    const [{ filename }] = JSON.parse(
      execute('npm', ['pack', '--json', join(clean, 'node_modules', name)], { cwd: folder })
    )
    return `./${filename}`
  })
  const env = environment(process.execPath, { npm_config_cache: join(work, 'empty') })
  execute('npm', ['install', '--offline', ...packed], { cwd: folder, env })
  runExample(folder)
})

test('pnpm installs the package', () => {
  const pnpm = join(install('pnpm@^10'), 'node_modules/pnpm/bin/pnpm.cjs')
  const folder = project('pnpm')
  execute('node', [pnpm, 'install', 'fdpass'], { cwd: folder })
  runExample(folder)
  assert.equal(execute('node', ['--input-type=module', '-e', broker], { cwd: folder }), 'opened\n')
})

/** Has Yarn use the local registry, and Plug'n'Play. */
function configureYarn(folder) {
  writeFileSync(
    join(folder, '.yarnrc.yml'),
    `npmRegistryServer: "${registry.address}"\nunsafeHttpWhitelist: ["127.0.0.1"]\nenableTelemetry: false\nnodeLinker: pnp\nnpmMinimalAgeGate: 0\n`
  )
}

test("the package works with Yarn's Plug'n'Play", () => {
  const yarn = join(install('@yarnpkg/cli-dist@^4'), 'node_modules/@yarnpkg/cli-dist/bin/yarn.js')
  const folder = project('yarn')
  configureYarn(folder)
  execute('node', [yarn, 'add', 'fdpass'], { cwd: folder })
  assert.ok(!existsSync(join(folder, 'node_modules')))
  runExample(folder, { command: `node ${yarn} node example.mjs` })
  writeFileSync(join(folder, 'broker.mjs'), broker)
  assert.equal(execute('node', [yarn, 'node', 'broker.mjs'], { cwd: folder }), 'opened\n')
})

/** A package that depends on usocket: it passes a descriptor to itself. */
const dependent = `
const { closeSync, openSync, readFileSync } = require('node:fs')
const { UServer, USocket } = require('usocket')
const server = new UServer().listen('own.sock')
server.once('connection', (socket) => {
  socket.once('readable', () => {
    const { fds } = socket.read(undefined, null)
    console.log(readFileSync(fds[0], 'utf8'))
    closeSync(fds[0])
    socket.destroy()
    server.close()
  })
})
server.once('listening', () => {
  const socket = new USocket('own.sock', () => {
    const fd = openSync('shown')
    socket.write({ data: Buffer.from('x'), fds: [fd], callback: () => closeSync(fd) })
  })
  socket.once('end', () => socket.destroy())
})
`

/** Creates a project that depends on a package which depends on usocket. */
function projectOfDependent(name, description) {
  const folder = project(name, { dependencies: { dependent: 'file:./dependent' }, ...description })
  project(join(name, 'dependent'), { name: 'dependent', version: '1.0.0', dependencies: { usocket: '^1.0.0' } })
  writeFileSync(join(folder, 'dependent', 'index.js'), dependent)
  writeFileSync(join(folder, 'main.cjs'), "require('dependent')")
  writeFileSync(join(folder, 'shown'), 'through fdpass-usocket')
  return folder
}

test("an override has a dependency's usocket be fdpass-usocket, as docs/guide/migrating.md describes", async (t) => {
  const replacement = 'npm:fdpass-usocket@^0.1'
  await t.test('npm', () => {
    const folder = projectOfDependent('override', { overrides: { usocket: replacement } })
    execute('npm', ['install'], { cwd: folder })
    assert.match(execute('npm', ['ls', 'usocket'], { cwd: folder }), /usocket@npm:fdpass-usocket@0\.1/)
    assert.equal(execute('node', ['main.cjs'], { cwd: folder }), 'through fdpass-usocket\n')
  })
  await t.test('pnpm', () => {
    const pnpm = join(install('pnpm@^10'), 'node_modules/pnpm/bin/pnpm.cjs')
    const folder = projectOfDependent('override-pnpm', { pnpm: { overrides: { usocket: replacement } } })
    execute('node', [pnpm, 'install'], { cwd: folder })
    assert.equal(execute('node', ['main.cjs'], { cwd: folder }), 'through fdpass-usocket\n')
  })
  await t.test('Yarn', () => {
    const yarn = join(install('@yarnpkg/cli-dist@^4'), 'node_modules/@yarnpkg/cli-dist/bin/yarn.js')
    const folder = projectOfDependent('override-yarn', { resolutions: { usocket: replacement } })
    configureYarn(folder)
    execute('node', [yarn, 'install'], { cwd: folder })
    assert.equal(execute('node', [yarn, 'node', 'main.cjs'], { cwd: folder }), 'through fdpass-usocket\n')
  })
})

test('a bundle made by esbuild works with fdpass outside it', async (t) => {
  const folder = project('bundled')
  cpSync(join(clean, 'node_modules'), join(folder, 'node_modules'), { recursive: true, verbatimSymlinks: true })
  const entry = join(folder, 'entry.js')
  writeFileSync(
    entry,
    `import { isSupported, socketpair } from 'fdpass'
     import { startBroker } from 'fdpass/broker'
     const [one, other] = socketpair()
     console.log(isSupported, typeof startBroker)
     one.close()
     other.close()`
  )
  for (const [format, extension] of [
    ['esm', 'mjs'],
    ['cjs', 'cjs']
  ]) {
    await t.test(format, async () => {
      const outfile = join(folder, `bundle.${extension}`)
      await build({ entryPoints: [entry], outfile, bundle: true, platform: 'node', format, external: ['fdpass'] })
      assert.equal(execute('node', [outfile], { cwd: folder }), 'true function\n')
    })
  }
})

test('a bundle that contains fdpass reports that fdpass has to stay outside', async () => {
  const folder = project('inlined')
  const entry = join(clean, 'inlined.js')
  writeFileSync(
    entry,
    "import { socketpair } from 'fdpass'\ntry { socketpair() } catch (error) { console.log(error.code, error.message) }"
  )
  const outfile = join(folder, 'bundle.mjs')
  await build({ entryPoints: [entry], outfile, bundle: true, platform: 'node', format: 'esm' })
  assert.match(execute('node', [outfile], { cwd: folder }), /^ERR_UNSUPPORTED_PLATFORM .*leave fdpass outside/)
})

test('a contributor without Rust builds and runs the project with the published binary', () => {
  const folder = join(work, 'without-rust')
  const names = execFileSync('git', ['ls-files', '-z', '--cached', '--others', '--exclude-standard'], { cwd: root })
  for (const name of names.toString().split('\0').filter(Boolean)) {
    if (!existsSync(join(root, name))) continue
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    copyFileSync(join(root, name), join(folder, name))
  }
  // The registry has only the project's own packages: the dependencies come from this check-out, and count as installed.
  const modules = join(folder, 'node_modules')
  mkdirSync(join(modules, '.fdpass'), { recursive: true })
  writeFileSync(join(modules, '.fdpass', 'dependencies'), '')
  for (const name of readdirSync(join(root, 'node_modules'))) {
    if (name.startsWith('.fdpass') || name === 'fdpass') continue
    symlinkSync(join(root, 'node_modules', name), join(modules, name))
  }
  symlinkSync('..', join(modules, 'fdpass'))
  const env = environment()
  for (const name of ['chmod', 'env']) symlinkSync(which(name), join(env.PATH, name))
  const setup = () => run('npm', ['run', '--silent', 'setup'], { cwd: folder, env })

  const { status, stderr } = setup()
  assert.equal(status, 0, stderr)
  assert.match(stderr, /cargo is not used\. The native binary is the one published with version/)
  assert.doesNotMatch(stderr, /crates\/ has changed/)
  const printed = execute('npm', ['start', '--silent', '--', 'LICENSE'], { cwd: folder, env })
  assert.equal(printed, readFileSync(join(folder, 'LICENSE'), 'utf8'))
  assert.deepEqual(setup(), { status: 0, stdout: '', stderr: '' })

  appendFileSync(join(folder, 'crates', 'core', 'src', 'lib.rs'), '// changed\n')
  assert.match(setup().stderr, /crates\/ has changed since version/)
})
