// Builds what is measured, in bench/.build. What cannot be built is reported with its reason.
import { copyFileSync, cpSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { installRuntime } from '../tools/check/install.mjs'
import { run } from './processes.mjs'

export const bench = fileURLToPath(new URL('.', import.meta.url))
const folder = join(bench, '.build')
const source = (path) => join(bench, 'peers', path)

export const built = (path) => join(folder, path)

/** The versions of Node that are compared. */
export const VERSIONS = [20, 22, 24, 26]

const compile = (name) => run(['cc', '-O2', '-Wall', '-o', built(name), source(`c/${name}.c`)])

const steps = {
  c: () => Promise.all(['passing', 'accept', 'clients'].map(compile)),
  go: () => run(['go', 'build', '-o', built('passing-go'), '.'], { cwd: source('go') }),
  async rust() {
    const target = built('rust')
    await run(['cargo', 'build', '--quiet', '--release', '--target-dir', target], { cwd: source('rust-tokio') })
  },
  python: () => run(['python3', '-c', 'import socket; socket.send_fds']),
  async anyio() {
    const python = built('python/bin/python')
    const works = () => run([python, '-c', 'import anyio'])
    await works().catch(async () => {
      await run(['python3', '-m', 'venv', built('python')])
      await run([python, '-m', 'pip', 'install', '--quiet', 'anyio==4.16.0'])
      await works()
    })
  },
  async reload() {
    const cwd = built('reload')
    mkdirSync(cwd, { recursive: true })
    const dependencies = { express: '5.3.0', fastify: '5.12.8', pm2: '7.0.4' }
    writeFileSync(join(cwd, 'package.json'), JSON.stringify({ private: true, type: 'module', dependencies }))
    await run([process.execPath, '-e', "['express', 'fastify', 'pm2'].forEach(require.resolve)"], { cwd }).catch(() =>
      run(['npm', 'install', '--no-package-lock', '--no-audit', '--no-fund', '--silent'], { cwd })
    )
  },
  nodes() {
    for (const version of VERSIONS) installRuntime(`node@${version}`, 'node')
  },
  // The package as npm installs it, and that of the platform.
  async package() {
    const project = join(bench, '..')
    await run([process.execPath, join(project, 'tools/release/package.mjs')], { cwd: project })
    const modules = built('package/node_modules')
    const platform = `${process.platform}-${process.arch}-gnu`
    rmSync(modules, { recursive: true, force: true })
    cpSync(join(project, 'npm/fdpass'), join(modules, 'fdpass'), { recursive: true })
    mkdirSync(join(modules, `fdpass-${platform}`))
    const binary = `fdpass.${platform}.node`
    copyFileSync(join(project, binary), join(modules, `fdpass-${platform}`, binary))
    writeFileSync(join(modules, `fdpass-${platform}`, 'package.json'), JSON.stringify({ main: binary }))
    writeFileSync(built('package/package.json'), '{}') // else 'fdpass' would be the project around it
  },
  async usocket() {
    const cwd = built('usocket')
    mkdirSync(cwd, { recursive: true })
    const works = () => run([process.execPath, '-e', "require('usocket')"], { cwd })
    writeFileSync(join(cwd, 'package.json'), '{ "private": true, "dependencies": { "usocket": "1.1.0" } }\n')
    await works().catch(async () => {
      await run(['npm', 'install', '--no-package-lock', '--no-audit', '--no-fund', '--silent'], { cwd })
      await works()
    })
  }
}

/** Builds for these steps. Resolves to the reasons of those that failed. */
export async function build(names) {
  mkdirSync(folder, { recursive: true })
  const reasons = {}
  for (const name of new Set(names)) {
    console.error(`building ${name} …`)
    try {
      await steps[name]()
    } catch (error) {
      reasons[name] = error.message
    }
  }
  return reasons
}
