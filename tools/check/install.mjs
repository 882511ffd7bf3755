// Programs for tests, from npm, that are no dependencies of the project: each in a folder of its own in node_modules/.fdpass.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { root } from '../run.mjs'

/** Installs a package, named with its version, unless it is there; the folder with its node_modules. */
export function install(name, { overrides = {}, ready = () => true } = {}) {
  const folder = join(root, 'node_modules', '.fdpass', 'runtimes', name.replace(/\W+/g, '-'))
  const installed = join(folder, 'node_modules', name.replace(/(?<=.)@.*/, ''))
  if (existsSync(installed) && ready(folder)) return folder
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ overrides }))
  console.error(`fdpass: ${name} …`)
  spawnSync('npm', ['install', '--no-audit', '--no-fund', name], {
    cwd: folder,
    stdio: ['ignore', 2, 2]
  })
  // Some put their executable in place by an install script, which npm may have been told not to run.
  for (const file of ['install.js', 'install.cjs', 'installArchSpecificPackage.js']) {
    if (!ready(folder) && existsSync(join(installed, file)))
      spawnSync(process.execPath, [file], { cwd: installed, stdio: ['ignore', 2, 2] })
  }
  if (!existsSync(installed) || !ready(folder)) throw new Error(`${name} could not be installed from npm`)
  return folder
}

/** Installs a runtime; the path of its executable. */
export function installRuntime(name, bin) {
  const executable = (folder) => join(folder, 'node_modules', '.bin', bin)
  const ready = (folder) => spawnSync(executable(folder), ['--version']).status === 0
  return executable(install(name, { ready }))
}
