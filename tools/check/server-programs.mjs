// The programs of servers.mjs and soak.mjs: what each needs from npm, and its source, or its files and the command that builds them. Each
// listens on PORT, and answers '/' with "ok", a space and its process id, or with something else. `/slow` takes 200 ms.
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { delimiter, dirname, join } from 'node:path'
import { root } from '../run.mjs'

const SLOW = 'await new Promise((resolve) => setTimeout(resolve, 200))'

/** Programs that are large to install: what they need, and their source. Each listens on PORT. */
const frameworks = {
  nest: {
    packages: ['@nestjs/core@11', '@nestjs/common@11', '@nestjs/platform-express@11', 'reflect-metadata', 'rxjs@7'],
    source: `import 'reflect-metadata'
import { Controller, Get, Module } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
class Root {
  root() { return 'ok ' + process.pid }
  async slow() { await new Promise((r) => setTimeout(r, 200)); return 'slow' }
}
Controller()(Root)
for (const [path, name] of [['/', 'root'], ['/slow', 'slow']]) Get(path)(Root.prototype, name, Object.getOwnPropertyDescriptor(Root.prototype, name))
class App {}
Module({ controllers: [Root] })(App)
const app = await NestFactory.create(App, { logger: false })
app.enableShutdownHooks()
await app.listen(process.env.PORT)`
  },
  apollo: {
    packages: ['@apollo/server@5', 'graphql@16'],
    path: '/?query=%7Bpid%7D',
    headers: { 'apollo-require-preflight': 'yes' },
    source: `import { ApolloServer } from '@apollo/server'
import { startStandaloneServer } from '@apollo/server/standalone'
const server = new ApolloServer({ typeDefs: 'type Query { pid: String }', resolvers: { Query: { pid: () => 'ok ' + process.pid } } })
await startStandaloneServer(server, { listen: { port: Number(process.env.PORT) } })`
  },
  aedes: {
    packages: ['aedes@0.51', 'mqtt@5'],
    client: 'mqtt',
    source: `import { createRequire } from 'node:module'
import { createServer } from 'node:net'
const aedes = createRequire(import.meta.url)('aedes')()
aedes.on('publish', ({ topic }, client) => { if (client) aedes.publish({ topic: 'answer/' + client.id, payload: 'ok ' + process.pid, qos: 0 }) })
createServer(aedes.handle).listen(process.env.PORT)`
  },
  sveltekit: {
    packages: ['@sveltejs/kit@2', '@sveltejs/adapter-node@5', 'svelte@5', 'vite@7', '@sveltejs/vite-plugin-svelte@6'],
    files: {
      'svelte.config.js': `import adapter from '@sveltejs/adapter-node'
export default { kit: { adapter: adapter() } }`,
      'vite.config.js': `import { sveltekit } from '@sveltejs/kit/vite'
export default { plugins: [sveltekit()] }`,
      'src/app.html': '<!doctype html><html><head>%sveltekit.head%</head><body>%sveltekit.body%</body></html>',
      'src/routes/+server.js': "export const GET = () => new Response('ok ' + process.pid)",
      'src/routes/slow/+server.js': `export const GET = async () => { ${SLOW}; return new Response('slow') }`
    },
    build: ['vite', 'build'],
    module: 'build/index.js'
  },
  nitro: {
    packages: ['nitropack@2'],
    files: {
      'nitro.config.js': "export default defineNitroConfig({ compatibilityDate: '2025-01-01' })",
      'routes/index.js': "export default defineEventHandler(() => 'ok ' + process.pid)",
      'routes/slow.js': `export default defineEventHandler(async () => { ${SLOW}; return 'slow' })`
    },
    build: ['nitropack', 'build'],
    module: '.output/server/index.mjs'
  },
  'react-router': {
    packages: [
      '@react-router/dev@7.18.4',
      '@react-router/serve@7.18.4',
      '@react-router/node@7.18.4',
      'react-router@7.18.4',
      'react@19',
      'react-dom@19',
      'vite@7',
      'isbot@5'
    ],
    files: {
      'vite.config.js': `import { reactRouter } from '@react-router/dev/vite'
export default { plugins: [reactRouter()] }`,
      'react-router.config.js': 'export default { ssr: true }',
      'app/root.jsx': `import { createElement } from 'react'
import { Outlet } from 'react-router'
export default () => createElement('html', null, createElement('body', null, createElement(Outlet)))`,
      'app/routes.js': `import { index, route } from '@react-router/dev/routes'
export default [index('routes/home.js'), route('slow', 'routes/slow.js')]`,
      'app/routes/home.js': "export const loader = () => new Response('ok ' + process.pid)",
      'app/routes/slow.js': `export const loader = async () => { ${SLOW}; return new Response('slow') }`
    },
    build: ['react-router', 'build'],
    module: 'node_modules/@react-router/serve/bin.js',
    args: () => ['build/server/index.js']
  }
}

/** Programs whose installation or build takes a minute or more. */
const release = {
  next: {
    packages: ['next@15', 'react@19', 'react-dom@19'],
    files: {
      'next.config.mjs': "export default { output: 'standalone', outputFileTracingRoot: import.meta.dirname }",
      'app/route.js': `export const dynamic = 'force-dynamic'
export const GET = () => new Response('ok ' + process.pid)`,
      'app/slow/route.js': `export const dynamic = 'force-dynamic'
export const GET = async () => { ${SLOW}; return new Response('slow') }`
    },
    build: ['next', 'build'],
    module: '.next/standalone/server.js'
  },
  astro: {
    packages: ['astro@5', '@astrojs/node@9'],
    files: {
      'astro.config.mjs': `import node from '@astrojs/node'
export default { output: 'server', adapter: node({ mode: 'standalone' }) }`,
      'src/pages/index.js': "export const GET = () => new Response('ok ' + process.pid)",
      'src/pages/slow.js': `export const GET = async () => { ${SLOW}; return new Response('slow') }`
    },
    build: ['astro', 'build'],
    module: 'dist/server/entry.mjs'
  }
}

/** Small programs: what they need, and their source. Each listens on PORT. */
const small = {
  http: {
    source: `import { createServer } from 'node:http'
createServer((q, r) => q.url === '/slow' ? setTimeout(() => r.end('slow'), 200) : r.end('ok ' + process.pid)).listen(process.env.PORT)`
  },
  express: {
    packages: ['express@5'],
    source: `import express from 'express'
const app = express()
app.get('/', (q, r) => r.send('ok ' + process.pid)).get('/slow', (q, r) => setTimeout(() => r.send('slow'), 200))
app.listen(process.env.PORT)`
  },
  fastify: {
    packages: ['fastify@5'],
    source: `import fastify from 'fastify'
const app = fastify()
app.get('/', async () => 'ok ' + process.pid)
app.get('/slow', async () => { await new Promise((r) => setTimeout(r, 200)); return 'slow' })
await app.listen({ port: Number(process.env.PORT) })`
  },
  koa: {
    packages: ['koa@3'],
    source: `import Koa from 'koa'
const app = new Koa()
app.use(async (c) => { if (c.path === '/slow') await new Promise((r) => setTimeout(r, 200)); c.body = 'ok ' + process.pid })
app.listen(process.env.PORT)`
  },
  hono: {
    packages: ['hono@4', '@hono/node-server@1'],
    source: `import { serve } from '@hono/node-server'
import { Hono } from 'hono'
const app = new Hono().get('/', (c) => c.text('ok ' + process.pid))
  .get('/slow', async (c) => { await new Promise((r) => setTimeout(r, 200)); return c.text('slow') })
serve({ fetch: app.fetch, port: Number(process.env.PORT) })`
  },
  srvx: {
    packages: ['srvx@0.8'],
    source: `import { serve } from 'srvx'
serve({ port: Number(process.env.PORT), async fetch(q) { if (q.url.endsWith('/slow')) await new Promise((r) => setTimeout(r, 200)); return new Response('ok ' + process.pid) } })`
  },
  h3: {
    packages: ['h3@1', 'listhen@1'],
    source: `import { createApp, defineEventHandler, toNodeListener } from 'h3'
import { listen } from 'listhen'
const app = createApp()
app.use(defineEventHandler(async (e) => { if (e.path === '/slow') await new Promise((r) => setTimeout(r, 200)); return 'ok ' + process.pid }))
await listen(toNodeListener(app), { port: Number(process.env.PORT), hostname: '127.0.0.1', showURL: false })`
  },
  hapi: {
    packages: ['@hapi/hapi@21'],
    source: `import Hapi from '@hapi/hapi'
const server = Hapi.server({ port: Number(process.env.PORT), host: '127.0.0.1' })
server.route([{ method: 'GET', path: '/', handler: () => 'ok ' + process.pid },
  { method: 'GET', path: '/slow', handler: async () => { await new Promise((r) => setTimeout(r, 200)); return 'slow' } }])
await server.start()`
  },
  'get-port': {
    packages: ['get-port@7'],
    source: `import getPort from 'get-port'
import { createServer } from 'node:http'
const port = await getPort({ port: Number(process.env.PORT) })
createServer((q, r) => r.end('ok ' + process.pid)).listen(port)`
  },
  'detect-port': {
    packages: ['detect-port@2'],
    source: `import { detect } from 'detect-port'
import { createServer } from 'node:http'
const port = await detect(Number(process.env.PORT))
createServer((q, r) => r.end('ok ' + process.pid)).listen(port)`
  },
  portfinder: {
    packages: ['portfinder@1'],
    source: `import portfinder from 'portfinder'
import { createServer } from 'node:http'
const port = await portfinder.getPortPromise({ port: Number(process.env.PORT), host: '127.0.0.1' })
createServer((q, r) => r.end('ok ' + process.pid)).listen(port, '127.0.0.1')`
  },
  'http-server': {
    packages: ['http-server@14'],
    module: 'node_modules/http-server/bin/http-server',
    args: (port) => ['.', '-p', String(port), '-a', '127.0.0.1', '-s']
  },
  'json-server': {
    packages: ['json-server@0.17'],
    source: `import jsonServer from 'json-server'
const server = jsonServer.create()
server.get('/', (q, r) => r.send('ok ' + process.pid))
server.use(jsonServer.router({ posts: [] }))
server.listen(process.env.PORT)`
  },
  ws: {
    packages: ['ws@8'],
    client: 'webSockets',
    source: `import { WebSocketServer } from 'ws'
const server = new WebSocketServer({ port: Number(process.env.PORT) })
server.on('connection', (socket) => socket.on('error', () => {}).on('message', (text) => socket.send('ok ' + process.pid + ' ' + text)))`
  },
  'socket.io': {
    packages: ['socket.io@4', 'socket.io-client@4'],
    client: 'socketIo',
    source: `import { Server } from 'socket.io'
const io = new Server(Number(process.env.PORT), { transports: ['websocket'] })
io.on('connection', (socket) => socket.on('ask', (text, answer) => answer('ok ' + process.pid)))`
  },
  http2: {
    packages: [],
    client: 'http2Clients',
    source: `import { createServer } from 'node:http2'
createServer((request, response) => response.end('ok ' + process.pid)).listen(process.env.PORT)`
  },
  'grpc-js': {
    packages: ['@grpc/grpc-js@1'],
    client: 'grpc',
    source: `import grpc from '@grpc/grpc-js'
const as = (value) => value
const server = new grpc.Server()
server.addService({ ask: { path: '/test/ask', requestStream: false, responseStream: false, requestSerialize: as, requestDeserialize: as, responseSerialize: as, responseDeserialize: as } },
  { ask: (call, done) => setTimeout(() => done(null, Buffer.from('ok ' + process.pid)), 20) })
server.bindAsync('127.0.0.1:' + process.env.PORT, grpc.ServerCredentials.createInsecure(), (error) => { if (error) throw error })`
  }
}

const sets = { small, frameworks, release }

/** Returns the programs of a set. */
export function programsOf(set) {
  const programs = sets[set]
  if (programs === undefined) throw new Error(`There is no set ${set}: ${Object.keys(sets).join(', ')}`)
  return programs
}

/** Returns the folder of the programs of a set that are not built. */
export function folderOf(set) {
  return join(root, 'node_modules', '.fdpass', `servers-${set}`)
}

/** Installs packages in a folder, unless they are there. */
function install(where, packages) {
  const stamp = join(where, 'installed')
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === packages.join(' ')) return
  mkdirSync(join(where, 'node_modules'), { recursive: true })
  writeFileSync(join(where, 'package.json'), '{ "type": "module", "private": true }')
  execFileSync('npm', ['install', '--no-audit', '--no-fund', '--silent', ...packages], { cwd: where, stdio: 'inherit' })
  if (!existsSync(join(where, 'node_modules', 'fdpass'))) symlinkSync(root, join(where, 'node_modules', 'fdpass'))
  writeFileSync(stamp, packages.join(' '))
}

/** Installs, writes and builds a program, unless that is done; returns its folder. Only one that is built has a folder of its own. */
export function prepare(set, name) {
  const programs = programsOf(set)
  const { packages, source, files = { [`${name}.mjs`]: source }, build } = programs[name]
  const folder = build === undefined ? folderOf(set) : join(folderOf(set), name)
  const shared = Object.values(programs).filter((program) => program.build === undefined)
  install(folder, build ? packages : [...new Set(shared.flatMap((program) => program.packages ?? []))])
  for (const [path, text] of Object.entries(files)) {
    if (text === undefined) continue
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    writeFileSync(join(folder, path), text)
  }
  if (build === undefined || existsSync(join(folder, 'built'))) return folder
  const [command, ...args] = build
  const env = {
    ...process.env,
    PATH: `${join(folder, 'node_modules', '.bin')}${delimiter}${process.env.PATH}`,
    NEXT_TELEMETRY_DISABLED: '1',
    ASTRO_TELEMETRY_DISABLED: '1'
  }
  console.log(`# ${name}: ${build.join(' ')}`)
  execFileSync(command, args, { cwd: folder, env, stdio: ['ignore', 'ignore', 'inherit'] })
  writeFileSync(join(folder, 'built'), '')
  return folder
}
