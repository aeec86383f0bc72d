-- Prepended to step.lua and lib.lua: add what a horse has counted, but to what is no number:
-- 'done <jobs> worked <seconds> field amount ...'.
local function add_counts(worker_key, counts)
  for field, amount in string.gmatch(counts, '(%S+) (%S+)') do
    if field == 'done' then redis.pcall('HINCRBY', worker_key, 'successful_job_count', amount)
    elseif field == 'worked' then redis.pcall('HINCRBYFLOAT', worker_key, 'total_working_time', amount)
    else redis.pcall('HINCRBYFLOAT', P .. ':werk:tallies', field, amount) end
  end
end
